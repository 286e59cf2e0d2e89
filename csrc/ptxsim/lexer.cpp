#include "ptxsim/lexer.h"

#include <cctype>
#include <stdexcept>

namespace ptxsim {
namespace {

bool is_word_start(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
         c == '.';
}

bool is_word(char c) { return is_word_start(c) || std::isdigit(static_cast<unsigned char>(c)); }

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  std::vector<Token> run() {
    while (skip_blanks()) {
      const char c = text_[at_];
      if (std::isdigit(static_cast<unsigned char>(c)))
        number();
      else if (is_word_start(c))
        word();
      else if (c == '"')
        string();
      else if (std::string_view("{}[]()<>,;:@!+-=|").find(c) != std::string_view::npos)
        add(Token::Kind::mark, at_ + 1);
      else
        throw std::runtime_error("PTX line " + std::to_string(line_) + ": unexpected character '" +
                                 c + "'");
    }
    tokens_.push_back({Token::Kind::end, {}, line_});
    return std::move(tokens_);
  }

 private:
  char peek(size_t offset) const {
    return at_ + offset < text_.size() ? text_[at_ + offset] : '\0';
  }

  void add(Token::Kind kind, size_t end) {
    tokens_.push_back({kind, text_.substr(at_, end - at_), line_});
    at_ = end;
  }

  // Blanks and comments; false at the end of the text.
  bool skip_blanks() {
    while (at_ < text_.size()) {
      if (text_[at_] == '\n') {
        ++line_;
        ++at_;
      } else if (std::isspace(static_cast<unsigned char>(text_[at_]))) {
        ++at_;
      } else if (peek(0) == '/' && peek(1) == '/') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else if (peek(0) == '/' && peek(1) == '*') {
        for (; at_ < text_.size() && !(peek(0) == '*' && peek(1) == '/'); ++at_)
          line_ += text_[at_] == '\n';
        at_ += 2;
      } else {
        return true;
      }
    }
    return false;
  }

  void number() {
    size_t end = at_;
    while (end < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[end])) || text_[end] == '.'))
      ++end;
    add(Token::Kind::number, end);
  }

  void word() {
    size_t end = at_;
    while (end < text_.size()) {
      if (is_word(text_[end]))
        ++end;
      else if (text_[end] == ':' && end + 1 < text_.size() && text_[end + 1] == ':')
        end += 2;  // the scope of an opcode's part, as in shared::cta
      else
        break;
    }
    add(Token::Kind::word, end);
  }

  void string() {
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != '"') end += text_[end] == '\\' ? 2 : 1;
    add(Token::Kind::string, end + 1);
  }

  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view text) { return Lexer(text).run(); }

}  // namespace ptxsim
