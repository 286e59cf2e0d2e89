// A cursor over tokens, with the small parsing steps that modules and functions share.
#pragma once

#include <stdexcept>

#include "ptxsim/lexer.h"
#include "ptxsim/types.h"

namespace ptxsim {

struct Number {
  u64 bits = 0;
  bool floating = false;
};

// Integers in C notation, 0fHHHHHHHH and 0dHHHHHHHHHHHHHHHH.
Number parse_number(std::string_view text);

// ".f32" or "f32"; Type::none for anything else.
Type parse_type(std::string_view text);

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  Token next() {
    const Token token = peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool done() const { return peek().kind == Token::Kind::end; }
  bool accept(std::string_view text) {
    if (!peek().is(text)) return false;
    next();
    return true;
  }
  void expect(std::string_view text) {
    if (!accept(text)) fail("expected '" + std::string(text) + "'");
  }
  u64 integer() {
    if (peek().kind != Token::Kind::number) fail("expected a number");
    return parse_number(next().text).bits;
  }
  s64 signed_integer() {
    const bool negative = accept("-");
    const auto value = static_cast<s64>(integer());
    return negative ? -value : value;
  }
  // For directives that end with their line.
  void skip_line() {
    for (const int line = peek().line; !done() && peek().line == line;) next();
  }
  // The matching closer of an opener that has just been read.
  void skip_balanced(std::string_view open, std::string_view close);
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("PTX line " + std::to_string(peek().line) + ": " + what + ", got '" +
                             std::string(peek().text) + "'");
  }

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace ptxsim
