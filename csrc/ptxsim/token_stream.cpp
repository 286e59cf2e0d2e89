#include "ptxsim/token_stream.h"

#include <bit>
#include <cstdlib>
#include <map>

namespace ptxsim {

Number parse_number(std::string_view text) {
  const std::string s(text);
  if (s.size() > 2 && s[0] == '0' && (s[1] == 'f' || s[1] == 'F'))
    return {std::strtoull(s.c_str() + 2, nullptr, 16), true};
  if (s.size() > 2 && s[0] == '0' && (s[1] == 'd' || s[1] == 'D'))
    return {std::strtoull(s.c_str() + 2, nullptr, 16), true};
  if (s.size() > 2 && s[0] == '0' && (s[1] == 'b' || s[1] == 'B'))
    return {std::strtoull(s.c_str() + 2, nullptr, 2), false};
  if (s.find('.') != std::string::npos)
    return {std::bit_cast<u64>(std::strtod(s.c_str(), nullptr)), true};
  return {std::strtoull(s.c_str(), nullptr, 0), false};
}

Type parse_type(std::string_view text) {
  static const std::map<std::string, Type, std::less<>> types = {
      {"pred", Type::pred},    {"b8", Type::b8},     {"b16", Type::b16},
      {"b32", Type::b32},      {"b64", Type::b64},   {"b128", Type::b128},
      {"u8", Type::u8},        {"u16", Type::u16},   {"u32", Type::u32},
      {"u64", Type::u64},      {"s8", Type::s8},     {"s16", Type::s16},
      {"s32", Type::s32},      {"s64", Type::s64},   {"f16", Type::f16},
      {"f16x2", Type::f16x2},  {"bf16", Type::bf16}, {"bf16x2", Type::bf16x2},
      {"tf32", Type::tf32},    {"f32", Type::f32},   {"f64", Type::f64},
      {"e4m3", Type::e4m3},    {"e5m2", Type::e5m2}, {"e4m3x2", Type::e4m3x2},
      {"e5m2x2", Type::e5m2x2}};
  if (!text.empty() && text[0] == '.') text.remove_prefix(1);
  const auto it = types.find(text);
  return it == types.end() ? Type::none : it->second;
}

void TokenStream::skip_balanced(std::string_view open, std::string_view close) {
  for (int depth = 1; depth > 0 && !done();) {
    const Token token = next();
    depth += token.is(open) ? 1 : token.is(close) ? -1 : 0;
  }
}

}  // namespace ptxsim
