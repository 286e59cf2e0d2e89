#include "ptxsim/cudart/fat_binary.h"

#include <cstring>

#include "ptxsim/types.h"

namespace ptxsim {
namespace {

constexpr u32 kWrapperMagic = 0x466243b1, kBinaryMagic = 0xba55ed50;
constexpr u16 kPtxKind = 1;

struct Wrapper {
  u32 magic, version;
  const u8* binary;
  const void* unused;
};

struct BinaryHeader {
  u32 magic;
  u16 version, header_bytes;
  u64 bytes;  // of all entries
};

struct EntryHeader {
  u16 kind, version;
  u32 header_bytes;
  u64 bytes;
};

PtxImage image_of(const char* text, size_t bytes) {
  PtxImage image;
  image.text.assign(text, strnlen(text, bytes));
  const size_t at = image.text.find(".target sm_");
  if (at == std::string::npos) return {};
  size_t end = at + 11;
  for (; end < image.text.size() && image.text[end] >= '0' && image.text[end] <= '9'; ++end)
    image.arch = image.arch * 10 + (image.text[end] - '0');
  image.specific = image.text[end] == 'a';
  return image;
}

}  // namespace

std::vector<PtxImage> ptx_images(const void* wrapper_bytes) {
  std::vector<PtxImage> images;
  Wrapper wrapper;
  std::memcpy(&wrapper, wrapper_bytes, sizeof wrapper);
  BinaryHeader header;
  if (wrapper.magic != kWrapperMagic) return images;
  std::memcpy(&header, wrapper.binary, sizeof header);
  if (header.magic != kBinaryMagic) return images;
  const u8* at = wrapper.binary + header.header_bytes;
  const u8* const end = at + header.bytes;
  while (at + sizeof(EntryHeader) <= end) {
    EntryHeader entry;
    std::memcpy(&entry, at, sizeof entry);
    if (entry.header_bytes == 0) break;
    if (entry.kind == kPtxKind) {
      PtxImage image = image_of(reinterpret_cast<const char*>(at + entry.header_bytes),
                                static_cast<size_t>(entry.bytes));
      if (image.arch) images.push_back(std::move(image));
    }
    at += entry.header_bytes + entry.bytes;
  }
  return images;
}

}  // namespace ptxsim
