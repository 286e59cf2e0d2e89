// The operations whose handlers work on all lanes at once, and the levels they are compiled for.
#pragma once

#include "ptxsim/machine.h"

namespace ptxsim {

enum class Op : u8 {
  // d, a
  mov,
  neg,
  abs,
  bit_not,
  logical_not,
  popc,
  clz,
  bfind,
  bfind_shift,
  brev,
  sqrt,
  rsqrt,
  rcp,
  sin,
  cos,
  ex2,
  lg2,
  tanh,
  // d, a, b
  add,
  sub,
  mul,
  mul_hi,
  mul_wide,
  div,
  rem,
  min,
  max,
  min_nan,
  max_nan,
  bit_and,
  bit_or,
  bit_xor,
  shl,
  shr,
  copysign,
  mul24,
  // d, a, b, c
  mad,
  mad_hi,
  mad_wide,
  fma,
  fma_relu,
  bfe,
  bfi,
  prmt,
  lop3,
  sad,
  funnel_left,
  funnel_right,
  slct,
  dp4a,
  // d, a, b with the condition code
  add_cc,
  addc,
  addc_cc,
  sub_cc,
  subc,
  subc_cc,
  mad_lo_cc,
  madc_lo,
  madc_lo_cc,
  mad_hi_cc,
  madc_hi,
  madc_hi_cc,
};

enum class Compare : u8 { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan };

// How the comparison's result is joined with a second predicate.
enum class Join : u8 { none, and_, or_, xor_ };

enum class Rounding : u8 {
  nearest,      // .rn
  zero,         // .rz
  down,         // .rm
  up,           // .rp
  int_nearest,  // .rni
  int_zero,     // .rzi
  int_down,     // .rmi
  int_up,       // .rpi
  away,         // .rna
};

struct Conversion {
  Type to, from;
  Rounding rounding = Rounding::nearest;
  bool saturate = false;
  bool relu = false;
};

inline constexpr int kWideRow = 256;

// Handlers of one instruction-set level. A null result: no such form.
struct LaneHandlers {
  const char* level;
  Handler (*integer)(Op op, Type type);
  Handler (*floating)(Op op, Type type, bool flush, bool saturate);
  // setp: reg[0] = p, reg[3] = q or none, reg[1], reg[2] the operands, reg[4] the predicate to join
  Handler (*compare)(Compare compare, Type type);
  Handler (*select)(int bytes);  // reg[3]: predicate
  // reg[0] <- reg[1], and reg[2] for packed results. variant: the rounding; imm, imm2: to, from
  Handler (*convert)(const Conversion& how);
  // list: D, A, B, C fragments. Null for shapes without a handler.
  Handler (*matrix)(int m, int n, int k, Type a, Type b, Type accumulator);
  // d[16][n] = a[16][k] * b[k][n]; rows of b and d are kWideRow floats apart, n a multiple of 8
  void (*products)(const float* a, const float* b, float* d, int k, int n);
};

// The best level this CPU runs; `PTXSIM_LEVEL` in the environment names a lower one.
const LaneHandlers& lane_handlers();

}  // namespace ptxsim
