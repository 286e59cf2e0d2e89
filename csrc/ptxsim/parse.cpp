#include "ptxsim/parse.h"

#include <algorithm>
#include <cstring>
#include <sstream>

namespace ptxsim {
namespace {

// A declaration behind its space: attributes and element type.
struct Declared {
  Type type = Type::none;
  u32 align = 0;
  int vector = 1;
};

Declared parse_attributes(TokenStream& tokens) {
  Declared declared;
  while (tokens.peek().kind == Token::Kind::word && tokens.peek().text[0] == '.') {
    const std::string_view word = tokens.next().text;
    if (word == ".align") {
      declared.align = static_cast<u32>(tokens.integer());
    } else if (word == ".v2" || word == ".v4") {
      declared.vector = word[2] - '0';
    } else if (word == ".attribute") {
      tokens.expect("(");
      tokens.skip_balanced("(", ")");
    } else if (parse_type(word) != Type::none) {
      declared.type = parse_type(word);
    }  // else: .ptr and the space it points to, which say nothing about layout
  }
  return declared;
}

void append_value(TokenStream& tokens, Variable& variable) {
  const int size = size_of(variable.type);
  std::vector<u8>& data = variable.data;
  if (tokens.accept("{")) {
    while (!tokens.accept("}")) {
      append_value(tokens, variable);
      tokens.accept(",");
    }
    return;
  }
  u64 bits = 0;
  if (tokens.peek().kind == Token::Kind::word) {
    std::string name(tokens.next().text);
    const bool generic = name == "generic" && tokens.accept("(");
    if (generic) {
      name = tokens.next().text;
      tokens.expect(")");
    }
    const s64 offset = tokens.accept("+") ? tokens.signed_integer() : 0;
    variable.addresses.push_back({data.size(), name, offset});
  } else {
    const bool negative = tokens.accept("-");
    const Number number = parse_number(tokens.next().text);
    bits = negative ? u64{0} - number.bits : number.bits;
  }
  const size_t at = data.size();
  data.resize(at + size);
  std::memcpy(data.data() + at, &bits, size);
}

}  // namespace

std::vector<Variable> parse_variables(TokenStream& tokens, Space space) {
  const Declared declared = parse_attributes(tokens);
  if (declared.type == Type::none) tokens.fail("expected a type");
  std::vector<Variable> variables;
  do {
    Variable v;
    v.name = tokens.next().text;
    v.space = space;
    v.type = declared.type;
    const u64 element = u64{static_cast<u32>(size_of(declared.type))} * declared.vector;
    u64 count = 1;
    bool unsized = false;
    while (tokens.accept("[")) {
      if (tokens.accept("]")) {
        unsized = true;
        continue;
      }
      count *= tokens.integer();
      tokens.expect("]");
    }
    v.align = declared.align ? declared.align : static_cast<u32>(element);
    if (tokens.accept("=")) append_value(tokens, v);
    v.bytes = unsized ? v.data.size() : count * element;
    variables.push_back(std::move(v));
  } while (tokens.accept(","));
  tokens.expect(";");
  return variables;
}

Variable parse_param(TokenStream& tokens) {
  const Declared declared = parse_attributes(tokens);
  Variable v;
  v.space = Space::param;
  v.type = declared.type;
  v.name = tokens.next().text;
  v.bytes = u64{static_cast<u32>(size_of(declared.type))} * declared.vector;
  // `.ptr .align N` describes what the parameter points to, and only kernels' byte arrays are
  // aligned themselves.
  v.align = declared.type == Type::b8 && declared.align
                ? declared.align
                : static_cast<u32>(std::max<u64>(v.bytes, 1));
  if (tokens.accept("[")) {
    v.bytes *= tokens.accept("]") ? 0 : tokens.integer();
    tokens.accept("]");
  }
  return v;
}

namespace {

Dim3 parse_dims(TokenStream& tokens) {
  Dim3 dims;
  dims.x = static_cast<u32>(tokens.integer());
  if (tokens.accept(",")) dims.y = static_cast<u32>(tokens.integer());
  if (tokens.accept(",")) dims.z = static_cast<u32>(tokens.integer());
  return dims;
}

std::vector<int> parse_params(TokenStream& tokens, Module& module) {
  std::vector<int> params;
  tokens.expect("(");
  while (!tokens.accept(")")) {
    if (!tokens.accept(".param")) tokens.accept(".reg");
    params.push_back(static_cast<int>(module.variables.size()));
    module.variables.push_back(parse_param(tokens));
    tokens.accept(",");
  }
  return params;
}

void parse_function(TokenStream& tokens, Module& module, bool entry) {
  Function function;
  function.entry = entry;
  if (!entry && tokens.peek().is("(")) function.results = parse_params(tokens, module);
  function.name = tokens.next().text;
  if (tokens.peek().is("(")) function.params = parse_params(tokens, module);
  while (!tokens.peek().is("{") && !tokens.peek().is(";")) {
    const Token directive = tokens.next();
    if (directive.is(".maxntid"))
      function.max_threads = parse_dims(tokens);
    else if (directive.is(".reqntid"))
      function.required_threads = parse_dims(tokens);
    else if (directive.is(".reqnctapercluster"))
      function.cluster = parse_dims(tokens);
    // Everything else, and its numbers and strings, guides ptxas only.
  }
  if (tokens.accept(";")) return;  // a prototype
  tokens.expect("{");
  parse_body(tokens, module, function);
  module.functions.push_back(std::move(function));
}

void parse_directive(TokenStream& tokens, Module& module) {
  const Token directive = tokens.peek();
  if (directive.is(".version") || directive.is(".address_size") || directive.is(".loc"))
    return tokens.skip_line();
  if (directive.is(".target")) {
    module.target = tokens.peek(1).text;
    return tokens.skip_line();
  }
  if (directive.is(".file")) {
    const std::string_view name = tokens.peek(2).text;
    module.files[static_cast<int>(parse_number(tokens.peek(1).text).bits)] =
        std::string(name.substr(1, name.size() - 2));
    return tokens.skip_line();
  }
  tokens.next();
  if (directive.is(".section")) {
    while (!tokens.accept("{")) tokens.next();
    return tokens.skip_balanced("{", "}");
  }
  if (directive.is(".entry") || directive.is(".func"))
    return parse_function(tokens, module, directive.is(".entry"));
  if (directive.is(".pragma") || directive.is(".alias")) {
    while (!tokens.accept(";")) tokens.next();
    return;
  }
  bool external = directive.is(".extern");
  if (external || directive.is(".visible") || directive.is(".weak") || directive.is(".common")) {
    const Token space = tokens.peek();
    if (space.is(".entry") || space.is(".func")) return;
    if (!space.is(".shared") && !space.is(".global") && !space.is(".const"))
      tokens.fail("expected a declaration");
    external = external && space.is(".shared");
    tokens.next();
    for (Variable& v : parse_variables(tokens, space.is(".shared")  ? Space::shared
                                               : space.is(".const") ? Space::constant
                                                                    : Space::global)) {
      v.external = external;
      module.variable_of[v.name] = static_cast<int>(module.variables.size());
      module.variables.push_back(std::move(v));
    }
    return;
  }
  if (directive.is(".shared") || directive.is(".global") || directive.is(".const")) {
    for (Variable& v : parse_variables(tokens, directive.is(".shared")  ? Space::shared
                                               : directive.is(".const") ? Space::constant
                                                                        : Space::global)) {
      module.variable_of[v.name] = static_cast<int>(module.variables.size());
      module.variables.push_back(std::move(v));
    }
    return;
  }
  tokens.fail("unknown directive '" + std::string(directive.text) + "'");
}

}  // namespace

Module parse_module(const std::string& text) {
  Module module;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) module.lines.push_back(line);
  TokenStream tokens(tokenize(text));
  while (!tokens.done()) parse_directive(tokens, module);
  return module;
}

}  // namespace ptxsim
