// PTX text to a Module.
#pragma once

#include <string>

#include "ptxsim/syntax.h"
#include "ptxsim/token_stream.h"

namespace ptxsim {

// Throws std::runtime_error naming the line. Unknown opcodes are no error here.
Module parse_module(const std::string& text);

// The parts of the grammar that module and function scope share (parse.cpp).
// Reads ".shared .align 16 .b8 name[64] = {..}" from behind the space, up to and including ';'.
std::vector<Variable> parse_variables(TokenStream& tokens, Space space);
// One parameter, as in ".param .u64 .ptr .global .align 1 name", from behind ".param".
Variable parse_param(TokenStream& tokens);

// The body of a function, from behind '{' to its '}' (parse_function.cpp).
void parse_body(TokenStream& tokens, Module& module, Function& function);

}  // namespace ptxsim
