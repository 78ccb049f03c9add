// Continues a text that is given as token ids, in C++17 with the wrapper of `--emit cpp`.
// usage: continue COUNT ID...  Prints the new ids on one line, and below it the text they stand for.
#include "smol.hpp"

#include <cstdlib>
#include <iostream>

int main(int argc, char **argv) try {
  std::vector<std::int32_t> tokens;
  for (int i = 2; i < argc; i++) tokens.push_back(std::atoi(argv[i]));
  smol::conversation talk;
  talk.prefill(tokens);
  std::string text;
  for (const std::int32_t token : talk.generate({}, static_cast<std::size_t>(std::atoi(argv[1])))) {
    std::cout << token << ' ';
    text += smol::piece(token);
  }
  std::cout << '\n' << text << '\n';
} catch (const smol::error &error) {
  std::cerr << "continue: " << error.what() << '\n';
  return 1;
}
