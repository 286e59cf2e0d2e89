// The body of a function: declarations, labels and statements, with names resolved scope by scope.
// Inline assembly opens scopes of its own, in which the same register and label names return.
#include <algorithm>
#include <map>
#include <optional>

#include "ptxsim/parse.h"

namespace ptxsim {
namespace {

struct Symbol {
  enum class Kind { reg, label, variable } kind;
  int index;
};

class BodyParser {
 public:
  BodyParser(TokenStream& tokens, Module& module, Function& function)
      : tokens_(tokens), module_(module), function_(function) {}

  void run() {
    scopes_.emplace_back();
    for (const std::vector<int>* variables : {&function_.params, &function_.results})
      for (int v : *variables)
        scopes_.back()[module_.variables[v].name] = {Symbol::Kind::variable, v};
    declare_labels();
    while (!scopes_.empty()) item();
  }

 private:
  // Labels are used before they appear, so those of a scope are declared when it opens.
  void declare_labels() {
    int depth = 0;
    for (size_t i = 0;; ++i) {
      const Token& token = tokens_.peek(i);
      if (token.kind == Token::Kind::end) tokens_.fail("unterminated body");
      if (token.is("{")) ++depth;
      if (token.is("}") && --depth < 0) return;
      if (depth == 0 && token.kind == Token::Kind::word && tokens_.peek(i + 1).is(":")) {
        scopes_.back()[std::string(token.text)] = {Symbol::Kind::label,
                                                   static_cast<int>(function_.labels.size())};
        function_.labels.push_back(-1);
      }
    }
  }

  void item() {
    const Token token = tokens_.peek();
    if (tokens_.accept("{")) {
      scopes_.emplace_back();
      declare_labels();
    } else if (tokens_.accept("}")) {
      scopes_.pop_back();
    } else if (token.is(".loc")) {
      location();
    } else if (tokens_.peek(1).is(":") && token.kind == Token::Kind::word) {
      function_.labels[scopes_.back().at(std::string(token.text)).index] =
          static_cast<int>(function_.body.size());
      tokens_.next();
      tokens_.next();
    } else if (token.kind == Token::Kind::word && token.text[0] == '.') {
      directive();
    } else if (!tokens_.accept(";")) {
      statement();
    }
  }

  // .loc FILE LINE COLUMN[, function_name NAME, inlined_at FILE LINE COLUMN]
  void location() {
    const auto number = [&] { return static_cast<int>(parse_number(tokens_.next().text).bits); };
    const int text_line = tokens_.next().line;
    source_ = {};
    source_.file = number();
    source_.line = number();
    while (tokens_.peek().line == text_line) {
      if (!tokens_.next().is("inlined_at")) continue;
      source_.caller_file = number();
      source_.caller_line = number();
    }
  }

  void directive() {
    const Token directive = tokens_.next();
    if (directive.is(".reg")) return registers();
    const std::map<std::string_view, Space> spaces = {{".param", Space::param},
                                                      {".local", Space::local},
                                                      {".shared", Space::shared},
                                                      {".global", Space::global},
                                                      {".const", Space::constant}};
    const auto space = spaces.find(directive.text);
    if (space == spaces.end()) {  // .pragma, .branchtargets, .callprototype
      while (!tokens_.accept(";")) tokens_.next();
      return;
    }
    for (Variable& v : parse_variables(tokens_, space->second)) {
      scopes_.back()[v.name] = {Symbol::Kind::variable, static_cast<int>(module_.variables.size())};
      module_.variables.push_back(std::move(v));
    }
  }

  // .reg .b32 %r<10>;   .reg .pred p, q;
  void registers() {
    const Type type = parse_type(tokens_.next().text);
    if (type == Type::none) tokens_.fail("expected a register type");
    do {
      const std::string name(tokens_.next().text);
      if (!tokens_.accept("<")) {
        declare_register(name, type);
        continue;
      }
      const u64 count = tokens_.integer();
      tokens_.expect(">");
      for (u64 i = 0; i < count; ++i) declare_register(name + std::to_string(i), type);
    } while (tokens_.accept(","));
    tokens_.expect(";");
  }

  void declare_register(const std::string& name, Type type) {
    scopes_.back()[name] = {Symbol::Kind::reg, static_cast<int>(function_.registers.size())};
    function_.registers.push_back({name, type});
  }

  std::optional<Symbol> find(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
      if (const auto it = scope->find(name); it != scope->end()) return it->second;
    if (const auto it = module_.variable_of.find(name); it != module_.variable_of.end())
      return Symbol{Symbol::Kind::variable, it->second};
    return std::nullopt;
  }

  void statement() {
    Statement s;
    s.line = tokens_.peek().line;
    s.source = source_;
    if (tokens_.accept("@")) {
      s.guard_negated = tokens_.accept("!");
      const Operand guard = name_operand(std::string(tokens_.next().text));
      if (guard.kind != Operand::Kind::reg) tokens_.fail("expected a predicate");
      s.guard = guard.index;
    }
    s.opcode = tokens_.next().text;
    for (size_t begin = 0; begin <= s.opcode.size();) {
      const size_t end = std::min(s.opcode.find('.', begin), s.opcode.size());
      s.parts.push_back(s.opcode.substr(begin, end - begin));
      begin = end + 1;
    }
    while (!tokens_.accept(";")) {
      s.operands.push_back(operand());
      tokens_.accept(",");
    }
    function_.body.push_back(std::move(s));
  }

  Operand operand() {
    Operand o;
    if (tokens_.accept("{")) return list("}");
    if (tokens_.accept("(")) return list(")");
    if (tokens_.accept("[")) return address();
    if (tokens_.accept("!")) {
      o = operand();
      o.negated = true;
      return o;
    }
    const bool negative = tokens_.accept("-");
    if (tokens_.peek().kind == Token::Kind::number) {
      const Number number = parse_number(tokens_.next().text);
      o.kind = Operand::Kind::immediate;
      o.floating = number.floating;
      o.bits = negative ? u64{0} - number.bits : number.bits;
      return o;
    }
    o = name_operand(std::string(tokens_.next().text));
    if (tokens_.accept("|")) {
      Operand pair;
      pair.kind = Operand::Kind::pair;
      pair.parts = {o, name_operand(std::string(tokens_.next().text))};
      return pair;
    }
    if (o.kind == Operand::Kind::variable) o.bits = static_cast<u64>(offset());
    return o;
  }

  Operand list(std::string_view close) {
    Operand o;
    o.kind = Operand::Kind::list;
    while (!tokens_.accept(close)) {
      o.parts.push_back(operand());
      tokens_.accept(",");
    }
    return o;
  }

  Operand address() {
    Operand o;
    o.kind = Operand::Kind::address;
    o.parts.push_back(operand());
    Operand& base = o.parts[0];
    if (base.kind == Operand::Kind::variable) {
      o.bits = base.bits;
      base.bits = 0;
    } else {
      o.bits = static_cast<u64>(offset());
    }
    while (tokens_.accept(",")) o.parts.push_back(operand());
    tokens_.expect("]");
    return o;
  }

  s64 offset() {
    if (tokens_.accept("+")) return tokens_.signed_integer();
    return tokens_.peek().is("-") ? tokens_.signed_integer() : 0;
  }

  Operand name_operand(const std::string& name) const {
    Operand o;
    if (name == "_") return o;
    if (name == "WARP_SZ") {
      o.kind = Operand::Kind::immediate;
      o.bits = kLanes;
    } else if (const std::optional<Symbol> symbol = find(name)) {
      o.kind = symbol->kind == Symbol::Kind::reg     ? Operand::Kind::reg
               : symbol->kind == Symbol::Kind::label ? Operand::Kind::label
                                                     : Operand::Kind::variable;
      o.index = symbol->index;
    } else {
      o.kind = name[0] == '%' ? Operand::Kind::special : Operand::Kind::function;
      o.text = name;
    }
    return o;
  }

  TokenStream& tokens_;
  Module& module_;
  Function& function_;
  SourceLine source_;
  std::vector<std::map<std::string, Symbol>> scopes_;
};

}  // namespace

void parse_body(TokenStream& tokens, Module& module, Function& function) {
  BodyParser(tokens, module, function).run();
}

}  // namespace ptxsim
