#include "gemm/codes.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "runtime/parallel.h"

namespace mn {
namespace {

constexpr int64_t kGrain = 1 << 16;  // codes below which one thread is faster

// The place of every code of a granule, lane by lane.
std::vector<CodePlace> places_of(Format format) {
  std::vector<CodePlace> places;
  for (int lane = 0; lane < kPanel; ++lane)
    for (int k = 0; k < kGranule; ++k) places.push_back(code_place(format, k, lane));
  return places;
}

uint8_t code_mask(const Coding& coding) { return coding.granule_bytes == 1024 ? 0xff : 0x0f; }

// Granule `g` of a panel, and the header of its segment.
char* granule_at(const Coding& coding, char* panel, int64_t g) {
  const int64_t segment = coding.granules ? g / coding.granules : 0;
  return panel + (segment + 1) * coding.header_bytes + g * coding.granule_bytes;
}
char* header_at(const Coding& coding, char* panel, int64_t segment) {
  return panel + segment * (coding.header_bytes + coding.granules * coding.granule_bytes);
}

}  // namespace

int64_t scale_bytes(Format format) {
  const Coding coding = coding_of(format);
  return coding.header_bytes / kPanel / (coding.has_min ? 2 : 1);
}

void pack_codes(const CodesProblem& p) {
  const PackedLayout& l = p.layout;
  const Coding coding = coding_of(l.format);
  const std::vector<CodePlace> places = places_of(l.format);
  const int64_t segments = coding.segments(l.inputs), scale = scale_bytes(l.format);
  const uint8_t mask = code_mask(coding);
  parallel_for(l.experts * l.panels(), l.experts * l.outputs * l.inputs, kGrain, [&](int64_t job) {
    const int64_t expert = job / l.panels(), first = job % l.panels() * kPanel;
    char* panel = p.packed + expert * l.expert_bytes() + job % l.panels() * l.panel_bytes();
    std::memset(panel, 0, static_cast<size_t>(l.panel_bytes()));
    const int64_t row = expert * l.outputs + first, lanes = std::min(kPanel, l.outputs - first);
    for (int64_t s = 0; s < segments; ++s) {
      char* header = header_at(coding, panel, s);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t from = ((row + lane) * segments + s) * scale;
        std::memcpy(header + lane * scale, p.scales + from, static_cast<size_t>(scale));
        if (p.mins)
          std::memcpy(header + (kPanel + lane) * scale, p.mins + from, static_cast<size_t>(scale));
      }
    }
    for (int64_t k = 0, g = 0; k < l.inputs; k += kGranule, ++g) {
      char* granule = granule_at(coding, panel, g);
      const int64_t n = std::min(kGranule, l.inputs - k);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const uint8_t* from = p.codes + (row + lane) * l.inputs + k;
        const CodePlace* place = places.data() + lane * kGranule;
        for (int64_t i = 0; i < n; ++i)
          granule[place[i].byte] |= static_cast<char>((from[i] & mask) << place[i].shift);
      }
    }
  });
}

void unpack_codes(const CodesProblem& p) {
  const PackedLayout& l = p.layout;
  const Coding coding = coding_of(l.format);
  const std::vector<CodePlace> places = places_of(l.format);
  const int64_t segments = coding.segments(l.inputs), scale = scale_bytes(l.format);
  const uint8_t mask = code_mask(coding);
  const int64_t blocks = (p.rows + kPanel - 1) / kPanel;
  parallel_for(blocks, p.rows * l.inputs, kGrain, [&](int64_t job) {
    for (int64_t i = job * kPanel; i < std::min((job + 1) * kPanel, p.rows); ++i) {
      const int64_t row = p.index ? p.index[i] : i;
      const int64_t output = row % l.outputs, lane = output % kPanel;
      char* panel =
          p.packed + row / l.outputs * l.expert_bytes() + output / kPanel * l.panel_bytes();
      for (int64_t s = 0; s < segments; ++s) {
        const char* header = header_at(coding, panel, s);
        const int64_t to = (i * segments + s) * scale;
        std::memcpy(p.scales + to, header + lane * scale, static_cast<size_t>(scale));
        if (p.mins)
          std::memcpy(p.mins + to, header + (kPanel + lane) * scale, static_cast<size_t>(scale));
      }
      const CodePlace* place = places.data() + lane * kGranule;
      for (int64_t k = 0, g = 0; k < l.inputs; k += kGranule, ++g) {
        const char* granule = granule_at(coding, panel, g);
        const int64_t n = std::min(kGranule, l.inputs - k);
        for (int64_t j = 0; j < n; ++j)
          p.codes[i * l.inputs + k + j] =
              static_cast<uint8_t>(granule[place[j].byte]) >> place[j].shift & mask;
      }
    }
  });
}

}  // namespace mn
