// Continues a text that is given as token ids, in C++17: the same library, the same header.
// usage: continue COUNT ID...  Prints the new ids on one line, and below it the text they stand for.
#include "smol.h"

#include <cstdlib>
#include <iostream>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Aligned {
  void operator()(unsigned char *p) const { ::operator delete(p, std::align_val_t{SMOL_ALIGN}); }
};
using Memory = std::unique_ptr<unsigned char, Aligned>;

Memory memory(std::size_t bytes) {
  return Memory{static_cast<unsigned char *>(::operator new(bytes, std::align_val_t{SMOL_ALIGN}))};
}

std::int32_t check(std::int32_t status) {
  if (status < 0) throw std::runtime_error(smol_error(status));
  return status;
}

class Conversation {
 public:
  Conversation() {
    env_.size = sizeof env_;
    env_.scratch = scratch_.get();
    env_.scratch_bytes = SMOL_SCRATCH_BYTES;
    check(smol_init(&env_, state_.get(), SMOL_STATE_BYTES));
  }
  void feed(const std::vector<std::int32_t> &tokens) {
    check(smol_prefill(&env_, state_.get(), tokens.data(), tokens.size()));
  }
  std::int32_t best() { return check(smol_sample(&env_, state_.get(), nullptr)); }

 private:
  Memory state_ = memory(SMOL_STATE_BYTES), scratch_ = memory(SMOL_SCRATCH_BYTES);
  smol_env env_{};
};

std::string piece(std::int32_t token) {
  std::string bytes(static_cast<std::size_t>(check(smol_piece(token, nullptr, 0))), '\0');
  check(smol_piece(token, bytes.data(), bytes.size()));
  return bytes;
}

}  // namespace

int main(int argc, char **argv) try {
  std::vector<std::int32_t> tokens;
  for (int i = 2; i < argc; i++) tokens.push_back(std::atoi(argv[i]));
  Conversation conversation;
  conversation.feed(tokens);
  std::string text;
  for (int left = argc > 1 ? std::atoi(argv[1]) : 0; left > 0; left--) {
    const std::int32_t token = conversation.best();
    std::cout << token << ' ';
    text += piece(token);
    if (SMOL_IS_EOS(token)) break;
    if (left > 1) conversation.feed({token});
  }
  std::cout << '\n' << text << '\n';
} catch (const std::exception &error) {
  std::cerr << "continue: " << error.what() << '\n';
  return 1;
}
