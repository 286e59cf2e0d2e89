// The decode functions, by group. Each file op_*.cpp holds a group's decode functions and those
// handlers that are not lane handlers.
#pragma once

#include "ptxsim/decoder.h"
#include "ptxsim/token_stream.h"

namespace ptxsim {

// op_arithmetic.cpp
void decode_arithmetic(Decoder& d, const Statement& s);
void decode_shift(Decoder& d, const Statement& s);
void decode_bits(Decoder& d, const Statement& s);
void decode_logic(Decoder& d, const Statement& s);
// op_move.cpp
void decode_mov(Decoder& d, const Statement& s);
void decode_cvt(Decoder& d, const Statement& s);
void decode_setp(Decoder& d, const Statement& s);
void decode_set(Decoder& d, const Statement& s);
void decode_selp(Decoder& d, const Statement& s);
// op_address.cpp
void decode_cvta(Decoder& d, const Statement& s);
void decode_isspacep(Decoder& d, const Statement& s);
void decode_mapa(Decoder& d, const Statement& s);
// op_memory.cpp
void decode_ld(Decoder& d, const Statement& s);
void decode_st(Decoder& d, const Statement& s);
// op_atomic.cpp
void decode_atom(Decoder& d, const Statement& s);
void decode_fence(Decoder& d, const Statement& s);
// op_matrix.cpp
void decode_ldmatrix(Decoder& d, const Statement& s);  // and stmatrix
void decode_mma(Decoder& d, const Statement& s);
// op_copy.cpp
void decode_cp(Decoder& d, const Statement& s);
// op_mbarrier.cpp
void decode_mbarrier(Decoder& d, const Statement& s);
void decode_copy_arrival(Decoder& d, const Statement& s);  // cp.async.mbarrier.arrive
// op_bulk.cpp
void decode_bulk(Decoder& d, const Statement& s);
// op_tensor.cpp
void decode_tensor_copy(Decoder& d, const Statement& s);
void decode_tensormap(Decoder& d, const Statement& s);
// op_wgmma.cpp
void decode_wgmma(Decoder& d, const Statement& s);
// op_cluster.cpp
void decode_cluster_barrier(Decoder& d, const Statement& s);
// op_control.cpp
void decode_bra(Decoder& d, const Statement& s);
void decode_call(Decoder& d, const Statement& s);
void decode_ret(Decoder& d, const Statement& s);
void decode_exit(Decoder& d, const Statement& s);
void decode_trap(Decoder& d, const Statement& s);
void decode_bar(Decoder& d, const Statement& s);
void decode_hint(Decoder& d, const Statement& s);  // no effect on results
void decode_createpolicy(Decoder& d, const Statement& s);
void decode_nanosleep(Decoder& d, const Statement& s);
// op_warp.cpp
void decode_shfl(Decoder& d, const Statement& s);
void decode_vote(Decoder& d, const Statement& s);
void decode_match(Decoder& d, const Statement& s);
void decode_redux(Decoder& d, const Statement& s);
void decode_elect(Decoder& d, const Statement& s);
void decode_activemask(Decoder& d, const Statement& s);

// Small steps that several groups use.
Type last_type(const Statement& s);  // the type an opcode ends with
bool is_float(Type type);
Rounding rounding_of(const Statement& s, bool* given = nullptr);
// The handler, or one that runs it under another rounding mode of the host's floating-point unit.
Handler round_as(Instruction& in, Handler handler, Rounding rounding);

}  // namespace ptxsim
