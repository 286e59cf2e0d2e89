// PTX text to tokens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ptxsim {

struct Token {
  enum class Kind { word, number, string, mark, end };
  Kind kind = Kind::end;
  std::string_view text;  // a part of the text given to tokenize()
  int line = 0;

  bool is(std::string_view wanted) const { return text == wanted; }
};

// Words are names, opcodes ("ld.shared::cta.b32") and directives (".reg"); a mark is one character.
// Throws std::runtime_error on a character that starts no token.
std::vector<Token> tokenize(std::string_view text);

}  // namespace ptxsim
