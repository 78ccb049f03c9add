// The C++ wrapper: every member once, and what fails.
#include "smol.hpp"

#include <cstdio>
#include <cstdlib>

static void expect(bool holds, const char *what) {
  if (holds) return;
  std::printf("%s\n", what);
  std::exit(1);
}

int main() {
  const std::vector<std::int32_t> prompt = smol::encode("ROMEO:\nWhat light");
  expect(prompt.size() > 3, "tokens");
  smol::conversation talk;
  expect(talk.logits().empty() && talk.position() == 0, "nothing yet");
  talk.prefill(prompt);
  expect(talk.logits().size() == SMOL_VOCAB, "logits");

  // The iterator gives what sample and decode give.
  const std::vector<unsigned char> saved = talk.save();
  std::vector<std::int32_t> one, two;
  for (const std::int32_t token : talk.generate({}, 9)) one.push_back(token);
  expect(talk.position() == prompt.size() + one.size() - 1, "the last token is not fed");
  talk.load(saved);
  for (int i = 0; i < 9; i++) {
    two.push_back(talk.sample());
    if (SMOL_IS_EOS(two.back())) two.pop_back(), i = 9;
    else talk.decode(two.back());
  }
  expect(one == two, "the same tokens");
  for (const std::int32_t token : talk.generate({}, 0)) expect(token < 0, "none");

  smol::sampling how;
  how.temperature = 1;
  how.seed = 3;
  talk.load(saved);
  std::string first, second;
  for (const std::int32_t token : talk.generate(how, 20)) first += smol::piece(token);
  talk.load(saved);
  for (const std::int32_t token : talk.generate(how, 20)) second += smol::piece(token);
  expect(!first.empty() && first == second, "one seed, one text");

  talk.truncate(2);
  expect(talk.position() == 2, "truncated");
  smol::conversation other = std::move(talk);
  other.truncate(0);
  expect(other.score(prompt).size() == prompt.size() - 1, "scores");
  std::size_t count = 0;
  for (const std::int32_t token : other.generate(how)) count += token >= 0;
  expect(other.position() <= SMOL_CONTEXT && count > 0, "ends at the end of the context at the latest");

  try {
    other.prefill(std::vector<std::int32_t>{-1});
    expect(false, "a bad token is refused");
  } catch (const smol::error &error) {
    expect(error.status() == SMOL_E_TOKEN || error.status() == SMOL_E_CONTEXT, error.what());
  }
  try {
    smol::chat(SMOL_START, SMOL_USER, "hello");
    expect(false, "no template");
  } catch (const smol::error &error) {
    expect(error.status() == SMOL_E_TEMPLATE, error.what());
  }
  const int numbers[] = {1, 2, 3};
  smol::span<const int> view(numbers);
  expect(view.size() == 3 && view[2] == 3 && view.end() - view.begin() == 3, "span");
  std::puts("ok");
}
