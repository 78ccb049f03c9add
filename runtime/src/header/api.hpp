namespace smol {

/// What a function of the library refused, with its status.
class error : public std::runtime_error {
 public:
  explicit error(std::int32_t status) : std::runtime_error(smol_error(status)), status_(status) {}
  std::int32_t status() const noexcept { return status_; }

 private:
  std::int32_t status_;
};

/// Throws what is negative.
template <class T>
T check(T status) {
  if (status < 0) throw error(static_cast<std::int32_t>(status));
  return status;
}

/// Values that lie in a row and belong to somebody else, as std::span of C++20.
template <class T>
class span {
 public:
  constexpr span() noexcept = default;
  constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
  template <class C, class = decltype(std::data(std::declval<C &>()))>
  constexpr span(C &&values) noexcept : data_(std::data(values)), size_(std::size(values)) {}
  constexpr T *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T *begin() const noexcept { return data_; }
  constexpr T *end() const noexcept { return data_ + size_; }
  constexpr T &operator[](std::size_t i) const noexcept { return data_[i]; }

 private:
  T *data_ = nullptr;
  std::size_t size_ = 0;
};

/// Memory as the library wants it aligned.
class memory {
 public:
  explicit memory(std::size_t bytes)
      : bytes_(static_cast<unsigned char *>(::operator new(bytes, align))), size_(bytes) {}
  unsigned char *data() const noexcept { return bytes_.get(); }
  std::size_t size() const noexcept { return size_; }

 private:
  static constexpr std::align_val_t align{SMOL_ALIGN};
  struct release {
    void operator()(unsigned char *bytes) const noexcept { ::operator delete(bytes, align); }
  };
  std::unique_ptr<unsigned char, release> bytes_;
  std::size_t size_;
};

/// Tokens of a text.
inline std::vector<std::int32_t> encode(std::string_view text) {
  const std::int32_t most = check(smol_encode(text.data(), text.size(), nullptr, 0));
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(most));
  const std::int32_t count = check(smol_encode(text.data(), text.size(), tokens.data(), tokens.size()));
  tokens.resize(static_cast<std::size_t>(count));
  return tokens;
}

/// Tokens of one turn of a conversation; see smol_chat.
inline std::vector<std::int32_t> chat(smol_role after, smol_role role, std::string_view text = {}) {
  const std::int32_t most = check(smol_chat(after, role, text.data(), text.size(), nullptr, 0));
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(most));
  const std::int32_t count =
      check(smol_chat(after, role, text.data(), text.size(), tokens.data(), tokens.size()));
  tokens.resize(static_cast<std::size_t>(count));
  return tokens;
}

/// Bytes of a token; a character may be spread over several.
inline std::string piece(std::int32_t token) {
  std::string bytes(static_cast<std::size_t>(check(smol_piece(token, nullptr, 0))), '\0');
  check(smol_piece(token, bytes.data(), bytes.size()));
  return bytes;
}

/// How tokens are chosen: greedy, until fields are set.
struct sampling : smol_sampling {
  sampling() noexcept : smol_sampling{} { size = sizeof(smol_sampling); }
};

class conversation;

/// The tokens that a conversation goes on with, one at a time: `for (auto token : talk.generate())`.
/// Ends after `most` tokens, before the token that ends a text, and where the context is full. Each
/// token but the last is fed before the next is chosen.
class generation {
 public:
  class iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = std::int32_t;
    using difference_type = std::ptrdiff_t;
    using pointer = const std::int32_t *;
    using reference = std::int32_t;

    std::int32_t operator*() const noexcept { return token_; }
    inline iterator &operator++();
    bool operator==(const iterator &other) const noexcept { return left_ == other.left_; }
    bool operator!=(const iterator &other) const noexcept { return left_ != other.left_; }

   private:
    friend class generation;
    iterator(conversation *talk, const sampling *how, std::size_t left)
        : talk_(talk), how_(how), left_(left) {}
    inline void choose();
    conversation *talk_;
    const sampling *how_;
    std::size_t left_;
    std::int32_t token_ = -1;
  };

  generation(conversation &talk, const sampling &how, std::size_t most)
      : talk_(&talk), how_(how), most_(most) {}
  iterator begin() {
    iterator first(talk_, &how_, most_);
    if (most_ != 0) first.choose();
    return first;
  }
  iterator end() { return iterator(talk_, &how_, 0); }

 private:
  conversation *talk_;
  sampling how_;
  std::size_t most_;
};

/// One conversation with memory of its own. What fails throws `error` and changes nothing.
class conversation {
 public:
  /// `weights`: those of SMOL_WEIGHTS_BYTES if the library has none (SMOL_WEIGHTS_EXTERNAL).
  explicit conversation(const void *weights = nullptr)
      : state_(SMOL_STATE_BYTES), scratch_(SMOL_SCRATCH_BYTES) {
    env_.size = sizeof env_;
    env_.weights = weights;
    env_.scratch = scratch_.data();
    env_.scratch_bytes = scratch_.size();
    check(smol_init(&env_, state_.data(), state_.size()));
  }

  /// For workers, parallel, poll and user.
  smol_env &env() noexcept { return env_; }

  /// Reads all weights and throws if any has changed.
  void verify() const { check(smol_verify(&env_)); }

  void prefill(span<const std::int32_t> tokens) {
    check(smol_prefill(&env_, state_.data(), tokens.data(), tokens.size()));
  }
  void decode(std::int32_t token) { check(smol_decode(&env_, state_.data(), token)); }
  /// SMOL_VOCAB of them, or none before the first token.
  span<const float> logits() const noexcept {
    const float *at = smol_logits(&env_, state_.data());
    return {at, at ? std::size_t{SMOL_VOCAB} : 0};
  }
  std::int32_t sample(const sampling &how = {}) {
    return check(smol_sample(&env_, state_.data(), &how));
  }
  generation generate(const sampling &how = {}, std::size_t most = SMOL_CONTEXT) {
    return generation(*this, how, most);
  }
  /// Natural logarithms of the probabilities of all tokens but the first.
  std::vector<float> score(span<const std::int32_t> tokens) {
    std::vector<float> logprobs(tokens.empty() ? 0 : tokens.size() - 1);
    float none = 0;
    check(smol_score(&env_, state_.data(), tokens.data(), tokens.size(),
                     logprobs.empty() ? &none : logprobs.data()));
    return logprobs;
  }

  std::uint32_t position() const noexcept { return smol_position(state_.data()); }
  void truncate(std::uint32_t position) { check(smol_truncate(state_.data(), position)); }
  std::vector<unsigned char> save() const {
    std::vector<unsigned char> blob(static_cast<std::size_t>(check(smol_save(state_.data(), nullptr, 0))));
    check(smol_save(state_.data(), blob.data(), blob.size()));
    return blob;
  }
  void load(span<const unsigned char> blob) { check(smol_load(state_.data(), blob.data(), blob.size())); }

 private:
  memory state_, scratch_;
  smol_env env_{};
};

inline void generation::iterator::choose() {
  token_ = talk_->sample(*how_);
  if (SMOL_IS_EOS(token_)) left_ = 0;
}

inline generation::iterator &generation::iterator::operator++() {
  if (--left_ == 0 || talk_->position() >= SMOL_CONTEXT) {
    left_ = 0;
    return *this;
  }
  talk_->decode(token_);
  choose();
  return *this;
}

}  // namespace smol
