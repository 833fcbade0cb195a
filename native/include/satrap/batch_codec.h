// PERSIA's batch bytes (PersiaBatch.to_bytes), both ways.
//
//     batch      u32 n, n x tensor             dense features
//                u32 tag                       0: no ids | 1: ids | 2: ids are kept by a worker elsewhere
//                  1: u8 requires_grad | u32 n, n x feature | 3 options (times and a number, of training
//                  only) 2: string worker address | u64 reference | u64 batcher
//                u32 n, n x tensor             labels
//                option bytes                  meta
//                option u64                    batch id
//     tensor     u32 0 | u32 dtype | u32 count, count x dtype | u32 n, n x u64 shape | u32 n, n x i64 stride
//                option string name | u32 device | option i32 device id
//     feature    string name
//                u32 n, n x (u64 id | u32 m, m x (u16 sample, u16 column))    one record per distinct id
//                u32 n, n x u32                                               ids of each sample
//                u32 n, n x (u64 id | i64 record)                             the records again, by id
//                u16 samples
//     option     u8 0, or u8 1 and the value;  string: u32 bytes, UTF-8
//
// All little-endian, without padding. What follows the batch is ignored, as PERSIA does. A batch is proved
// consistent while it is decoded: sizes before anything is allocated for them, samples and columns, the map
// from ids to records, shapes and strides, one number of samples throughout.
#ifndef SATRAP_BATCH_CODEC_H_
#define SATRAP_BATCH_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "satrap/byte_reader.h"
#include "satrap/id_feature.h"

namespace satrap {

// The numbers are the wire's.
enum class TensorType : std::uint32_t {
  kBool,
  kFloat16,
  kFloat32,
  kFloat64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUInt8,
  kUInt16,
  kUInt32,
  kUInt64,
};
constexpr std::uint32_t kTensorTypes = 12;

std::size_t item_size(TensorType type);

// A tensor in C order whose data belongs to somebody else, unaligned.
struct TensorView {
  TensorType type = TensorType::kFloat32;
  std::vector<std::uint64_t> shape;  // at least one dimension, the samples
  std::optional<std::string> name;
  std::span<const std::byte> data;
};

enum class IdsKind : std::uint8_t { kNone, kFeatures, kRemote };

struct RemoteReference {
  std::string worker_address;
  std::uint64_t reference = 0;
  std::uint64_t batcher = 0;
};

struct Batch {
  std::vector<TensorView> non_id_features;
  IdsKind ids = IdsKind::kNone;
  bool requires_grad = false;
  std::vector<IdFeature> id_features;  // kFeatures
  RemoteReference remote;              // kRemote
  std::vector<TensorView> labels;
  std::optional<std::span<const std::byte>> meta;
  std::optional<std::uint64_t> batch_id;
  std::span<const std::byte> ids_section;  // the bytes from the tag to the end of the ids
};

// Tensors, meta and ids_section are views into `bytes`. Throws DecodeError naming the feature or tensor.
Batch decode_batch(std::span<const std::byte> bytes);

// The bytes of a batch; ids_section is not used. Throws std::length_error if a count does not fit its field.
std::vector<std::byte> encode_batch(const Batch& batch);

// The same batch with its ids alone: no tensors, labels, meta, batch id.
std::vector<std::byte> encode_ids_only(const Batch& batch);

}  // namespace satrap

#endif  // SATRAP_BATCH_CODEC_H_
