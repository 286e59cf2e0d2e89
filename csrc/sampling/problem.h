// The plain sampler: what a call hands to the kernels. B rows, V vocabulary, H history.
#pragma once

#include <cstdint>

#include "runtime/isa.h"
#include "simd/softmax_chunk.h"

namespace mn {

// Where one thread keeps what, in bytes from the start of its scratch (plan.cpp).
struct SampleScratch {
  int64_t row, maxima, sums;             // penalised logits; per chunk 16 maxima and one sum
  int64_t ids, logits, weights;          // the candidates, in ascending id order
  int64_t keys, open_keys, open_masses;  // their ranking keys, and what the search narrows down
  int64_t seen, times;                   // hash table of the history
  int64_t table_size;                    // slots of it, a power of two
  int64_t bytes;
};

// Every control is [B], or null where it is off.
struct SampleProblem {
  int64_t rows, vocab;
  const void* logits;
  int64_t logits_stride;
  const int64_t* seed;
  const int64_t* position;
  const double* coins;  // instead of the generator's, or null
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
  const float* min_p;
  const float* repetition_penalty;
  const float* presence_penalty;
  const float* frequency_penalty;
  const int32_t* history;  // [B, H], -1 is padding
  int64_t history_len;
  const int32_t* prompt_lens;
  int64_t* ids;
  float* logprobs;
  SampleScratch layout;
  char* scratch;  // layout.bytes per thread
};

struct SamplingKernels {
  // False if a row holds NaN or +inf or nothing but -inf; the outputs are then void.
  bool (*sample_f32)(const SampleProblem&);
  bool (*sample_bf16)(const SampleProblem&);
};

MN_DECLARE_KERNELS(SamplingKernels, sampling_kernels)

SampleScratch plan_sample_scratch(const SampleProblem& problem);

}  // namespace mn
