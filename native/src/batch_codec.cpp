#include "satrap/batch_codec.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "satrap/sign_index.h"

namespace satrap {
namespace {

constexpr std::size_t kMinTensorBytes = 4 + 4 + 4 + 4 + 4 + 1 + 4 + 1;
constexpr std::size_t kMinFeatureBytes = 4 + 4 + 4 + 4 + 2;
constexpr std::size_t kMinRecordBytes = 8 + 4;
constexpr std::size_t kMapEntryBytes = 8 + 8;
constexpr std::size_t kTimeBytes = 8 + 4;
constexpr std::size_t kMaxDimensions = 32;

bool read_flag(ByteReader& reader, const char* what) { return reader.read_u8(what) != 0; }

// ---- tensors ----------------------------------------------------------------------------------------------

// NumPy refuses what is too large or has too many dimensions for any array, and an axis without items does
// not make the others free; so it is refused here, where a reason can be given.
std::size_t checked_items(const ByteReader& reader, std::span<const std::uint64_t> shape,
                          std::size_t item_size, std::size_t at) {
  if (shape.size() > kMaxDimensions) {
    reader.fail(std::to_string(shape.size()) + " dimensions; a tensor has " + std::to_string(kMaxDimensions) +
                    " at most",
                at);
  }
  std::uint64_t items = 1;
  std::int64_t bytes = static_cast<std::int64_t>(item_size);
  for (const std::uint64_t extent : shape) {
    items *= extent;
    if (__builtin_mul_overflow(bytes, std::max<std::uint64_t>(extent, 1), &bytes)) {
      reader.fail("the shape is larger than any array", at);
    }
  }
  return items;
}

// A stride says nothing where an axis has one item, or the tensor has none.
void check_strides(ByteReader& reader, const TensorView& tensor) {
  const std::size_t at = reader.offset();
  const std::size_t n = reader.read_count("the stride count", 8);
  if (n != tensor.shape.size()) {
    reader.fail(std::to_string(n) + " strides for " + std::to_string(tensor.shape.size()) + " dimensions",
                at);
  }
  const std::byte* strides = reader.take(n * 8, "the strides").data();
  std::uint64_t expected = 1;
  for (std::size_t axis = n; axis-- > 0;) {
    const std::uint64_t extent = tensor.shape[axis];
    if (extent > 1 && !tensor.data.empty() && load<std::uint64_t>(strides + axis * 8) != expected) {
      reader.fail("the strides are not those of C order", at);
    }
    expected *= extent;
  }
}

TensorView read_tensor(ByteReader& reader, const char* section, std::size_t position) {
  const std::string place = std::string(section) + "[" + std::to_string(position) + "]";
  reader.set_field(place);
  TensorView tensor;
  std::size_t at = reader.offset();
  if (const auto storage = reader.read_u32("the storage tag"); storage != 0) {
    reader.fail("storage tag " + std::to_string(storage) + " is not 0 (CPU)", at);
  }
  at = reader.offset();
  const std::uint32_t type = reader.read_u32("the dtype");
  if (type >= kTensorTypes) reader.fail("dtype " + std::to_string(type) + " is none of 0 to 11", at);
  tensor.type = static_cast<TensorType>(type);
  const std::size_t size = item_size(tensor.type);
  at = reader.offset();
  const std::size_t count = reader.read_count("the item count", size);
  tensor.data = reader.take(count * size, "the items");

  const std::size_t shape_at = reader.offset();
  tensor.shape.resize(reader.read_count("the dimension count", 8));
  for (std::uint64_t& extent : tensor.shape) extent = reader.read_u64("the shape");
  if (tensor.shape.empty()) reader.fail("a scalar has no samples", shape_at);
  if (const std::size_t items = checked_items(reader, tensor.shape, size, shape_at); items != count) {
    reader.fail(
        "the shape makes " + std::to_string(items) + " items, but " + std::to_string(count) + " are there",
        at);
  }
  check_strides(reader, tensor);
  if (read_flag(reader, "the name's flag")) {
    tensor.name = reader.read_string("the name");
    if (!tensor.name->empty()) reader.set_field(*tensor.name);
  }
  at = reader.offset();
  if (const auto device = reader.read_u32("the device"); device > 1) {
    reader.fail("device " + std::to_string(device) + " is neither 0 (CPU) nor 1 (GPU)", at);
  }
  if (read_flag(reader, "the device id's flag")) reader.read_u32("the device id");
  return tensor;
}

// ---- ids --------------------------------------------------------------------------------------------------

// Appends the records of distinct ids. `scratch` is as large as any feature needed so far.
void read_records(ByteReader& reader, IdFeature& feature, std::vector<Position>& scratch) {
  const std::size_t n = reader.read_count("the id count", kMinRecordBytes);
  feature.signs.resize(n);
  feature.starts.resize(n + 1);
  std::size_t filled = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const std::byte* record = reader.take(kMinRecordBytes, "an id").data();
    feature.signs[i] = load<std::uint64_t>(record);
    feature.starts[i] = static_cast<std::uint32_t>(filled);
    const std::size_t positions = load<std::uint32_t>(record + 8);
    if (positions > reader.remaining() / sizeof(Position)) {
      reader.fail("an id says it has " + std::to_string(positions) + " positions, but " +
                      std::to_string(reader.remaining()) + " bytes are there",
                  reader.offset() - 4);
    }
    const std::byte* from = reader.take(positions * sizeof(Position), "an id's positions").data();
    if (filled + positions > scratch.size()) {
      scratch.resize(std::max({scratch.size() * 2, filled + positions, n}));
    }
    for (std::size_t k = 0; k < positions; ++k) {
      scratch[filled + k] = load<Position>(from + k * sizeof(Position));
    }
    filled += positions;
  }
  feature.starts[n] = static_cast<std::uint32_t>(filled);
  feature.positions.assign(scratch.begin(), scratch.begin() + static_cast<std::ptrdiff_t>(filled));
}

// The map must lead from every id to its own record, and the ids must be distinct.
void check_map(ByteReader& reader, const IdFeature& feature, std::size_t records_at) {
  const std::size_t at = reader.offset();
  const std::size_t n = reader.read_count("the id map's count", kMapEntryBytes);
  if (n != feature.signs.size()) {
    reader.fail("the id map has " + std::to_string(n) + " entries for " +
                    std::to_string(feature.signs.size()) + " ids",
                at);
  }
  const std::size_t entries_at = reader.offset();
  const std::byte* entries = reader.take(n * kMapEntryBytes, "the id map").data();
  std::vector<std::uint8_t> seen(n);
  for (std::size_t i = 0; i < n; ++i) {
    const std::byte* entry = entries + i * kMapEntryBytes;
    const std::uint64_t record = load<std::uint64_t>(entry + 8);
    if (record >= n || seen[record] != 0 || feature.signs[record] != load<std::uint64_t>(entry)) {
      reader.fail("the id map does not lead from each id to its own record", entries_at + i * kMapEntryBytes);
    }
    seen[record] = 1;
  }
  SignIndex distinct(n);
  for (const std::uint64_t sign : feature.signs) distinct.insert(sign);
  if (distinct.size() != n) reader.fail("an id has more than one record", records_at);
}

IdFeature read_feature(ByteReader& reader, std::size_t position, std::vector<Position>& scratch) {
  reader.set_field("id_type_features[" + std::to_string(position) + "]");
  IdFeature feature;
  feature.name = reader.read_string("the feature's name");
  reader.set_field(feature.name);
  const std::size_t records_at = reader.offset();
  read_records(reader, feature, scratch);
  const std::size_t counts_at = reader.offset();
  feature.sample_counts.resize(reader.read_count("the sample count", 4));
  const auto counts = reader.take(feature.sample_counts.size() * 4, "sample_num_signs");
  if (!counts.empty()) std::memcpy(feature.sample_counts.data(), counts.data(), counts.size());
  check_map(reader, feature, records_at);
  const std::size_t batch_at = reader.offset();
  if (const auto samples = reader.read_u16("the batch size"); samples != feature.batch_size()) {
    reader.fail("the batch size is " + std::to_string(samples) + ", but sample_num_signs has " +
                    std::to_string(feature.batch_size()) + " entries",
                batch_at);
  }
  try {
    places_in_sample_order(feature);
  } catch (const std::invalid_argument& error) {
    reader.fail(error.what(), counts_at);
  }
  return feature;
}

void read_ids(ByteReader& reader, Batch& batch) {
  batch.requires_grad = read_flag(reader, "requires_grad");
  const std::size_t n = reader.read_count("the feature count", kMinFeatureBytes);
  std::vector<Position> scratch;
  for (std::size_t i = 0; i < n; ++i) batch.id_features.push_back(read_feature(reader, i, scratch));
  reader.set_field("id_type_features");
  for (const char* what : {"the first buffer time", "the second buffer time"}) {
    if (read_flag(reader, what)) reader.take(kTimeBytes, what);
  }
  if (read_flag(reader, "the batcher's flag")) reader.read_u64("the batcher");
}

// ---- one number of samples --------------------------------------------------------------------------------

class SampleCount {
 public:
  explicit SampleCount(const ByteReader& reader) : reader_(reader) {}

  void check(std::uint64_t samples, const std::string& name) {
    if (name_.empty()) {
      samples_ = samples;
      name_ = name;
    } else if (samples != samples_) {
      throw DecodeError(
          std::to_string(samples) + " samples, but " + name_ + " has " + std::to_string(samples_),
          reader_.offset(), name);
    }
  }

  void check(const std::vector<TensorView>& tensors, const std::string& section) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const std::string place = section + "[" + std::to_string(i) + "]";
      check(tensors[i].shape.front(), tensors[i].name ? place + " " + *tensors[i].name : place);
    }
  }

 private:
  const ByteReader& reader_;
  std::uint64_t samples_ = 0;
  std::string name_;
};

std::vector<TensorView> read_tensors(ByteReader& reader, const char* section) {
  reader.set_field(section);
  const std::size_t n = reader.read_count("the tensor count", kMinTensorBytes);
  std::vector<TensorView> tensors;
  for (std::size_t i = 0; i < n; ++i) tensors.push_back(read_tensor(reader, section, i));
  return tensors;
}

}  // namespace

std::size_t item_size(TensorType type) {
  switch (type) {
    case TensorType::kBool:
    case TensorType::kInt8:
    case TensorType::kUInt8:
      return 1;
    case TensorType::kFloat16:
    case TensorType::kInt16:
    case TensorType::kUInt16:
      return 2;
    case TensorType::kFloat32:
    case TensorType::kInt32:
    case TensorType::kUInt32:
      return 4;
    case TensorType::kFloat64:
    case TensorType::kInt64:
    case TensorType::kUInt64:
      return 8;
  }
  return 0;
}

Batch decode_batch(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  SampleCount samples(reader);
  Batch batch;
  batch.non_id_features = read_tensors(reader, "non_id_type_features");
  samples.check(batch.non_id_features, "non_id_type_features");

  reader.set_field("id_type_features");
  const std::size_t ids_at = reader.offset();
  const std::uint32_t tag = reader.read_u32("the tag of the ids");
  if (tag > 2) reader.fail("tag " + std::to_string(tag) + " of the ids is none of 0, 1, 2", ids_at);
  batch.ids = static_cast<IdsKind>(tag);
  if (batch.ids == IdsKind::kFeatures) {
    read_ids(reader, batch);
    for (const IdFeature& feature : batch.id_features) samples.check(feature.batch_size(), feature.name);
  } else if (batch.ids == IdsKind::kRemote) {
    batch.remote.worker_address = reader.read_string("the worker's address");
    batch.remote.reference = reader.read_u64("the reference");
    batch.remote.batcher = reader.read_u64("the batcher");
  }
  batch.ids_section = bytes.subspan(ids_at, reader.offset() - ids_at);

  batch.labels = read_tensors(reader, "labels");
  samples.check(batch.labels, "labels");
  reader.set_field("meta");
  if (read_flag(reader, "the meta's flag")) {
    batch.meta = reader.take(reader.read_count("the meta's length", 1), "the meta");
  }
  reader.set_field("batch_id");
  if (read_flag(reader, "the batch id's flag")) batch.batch_id = reader.read_u64("the batch id");
  return batch;
}

// ---- encoding ---------------------------------------------------------------------------------------------

namespace {

class ByteWriter {
 public:
  explicit ByteWriter(std::size_t size) { bytes_.reserve(size); }

  template <class T>
  void write(T value) {
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), from, from + sizeof value);
  }
  void write_count(std::size_t n) {
    if (n > std::numeric_limits<std::uint32_t>::max()) {
      throw std::length_error("a batch counts in 32 bits; there are " + std::to_string(n) + " items");
    }
    write(static_cast<std::uint32_t>(n));
  }
  void write_flag(bool flag) { write(static_cast<std::uint8_t>(flag)); }
  void write_bytes(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  void write_string(const std::string& text) {
    write_count(text.size());
    write_bytes(std::as_bytes(std::span(text)));
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

void write_tensor(ByteWriter& writer, const TensorView& tensor) {
  writer.write(std::uint32_t{0});
  writer.write(static_cast<std::uint32_t>(tensor.type));
  writer.write_count(tensor.data.size() / item_size(tensor.type));
  writer.write_bytes(tensor.data);
  writer.write_count(tensor.shape.size());
  for (const std::uint64_t extent : tensor.shape) writer.write(extent);
  writer.write_count(tensor.shape.size());
  for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    std::uint64_t stride = 1;
    for (std::size_t inner = axis + 1; inner < tensor.shape.size(); ++inner) stride *= tensor.shape[inner];
    writer.write(stride);
  }
  writer.write_flag(tensor.name.has_value());
  if (tensor.name) writer.write_string(*tensor.name);
  writer.write(std::uint32_t{0});
  writer.write_flag(false);
}

void write_feature(ByteWriter& writer, const IdFeature& feature) {
  if (feature.batch_size() > kMaxBatchSize) {
    throw std::length_error(std::to_string(feature.batch_size()) + " samples; a batch has " +
                            std::to_string(kMaxBatchSize) + " at most");
  }
  writer.write_string(feature.name);
  writer.write_count(feature.signs.size());
  for (std::size_t i = 0; i < feature.signs.size(); ++i) {
    const std::size_t positions = feature.starts[i + 1] - feature.starts[i];
    writer.write(feature.signs[i]);
    writer.write_count(positions);
    writer.write_bytes(std::as_bytes(std::span(feature.positions).subspan(feature.starts[i], positions)));
  }
  writer.write_count(feature.sample_counts.size());
  writer.write_bytes(std::as_bytes(std::span(feature.sample_counts)));
  writer.write_count(feature.signs.size());
  for (std::size_t i = 0; i < feature.signs.size(); ++i) {
    writer.write(feature.signs[i]);
    writer.write(std::uint64_t{i});
  }
  writer.write(static_cast<std::uint16_t>(feature.batch_size()));
}

void write_ids(ByteWriter& writer, const Batch& batch) {
  writer.write(static_cast<std::uint32_t>(batch.ids));
  if (batch.ids == IdsKind::kFeatures) {
    writer.write_flag(batch.requires_grad);
    writer.write_count(batch.id_features.size());
    for (const IdFeature& feature : batch.id_features) write_feature(writer, feature);
    for (int option = 0; option < 3; ++option) writer.write_flag(false);
  } else if (batch.ids == IdsKind::kRemote) {
    writer.write_string(batch.remote.worker_address);
    writer.write(batch.remote.reference);
    writer.write(batch.remote.batcher);
  }
}

// Close enough that writing seldom moves the bytes.
std::size_t expected_size(const Batch& batch) {
  std::size_t size = 256;
  for (const auto* tensors : {&batch.non_id_features, &batch.labels}) {
    for (const TensorView& tensor : *tensors) size += tensor.data.size() + 256;
  }
  for (const IdFeature& feature : batch.id_features) {
    size += feature.signs.size() * (kMinRecordBytes + kMapEntryBytes) + feature.positions.size() * 4 +
            feature.batch_size() * 4 + feature.name.size() + 64;
  }
  return size + (batch.meta ? batch.meta->size() : 0);
}

}  // namespace

std::vector<std::byte> encode_batch(const Batch& batch) {
  ByteWriter writer(expected_size(batch));
  writer.write_count(batch.non_id_features.size());
  for (const TensorView& tensor : batch.non_id_features) write_tensor(writer, tensor);
  write_ids(writer, batch);
  writer.write_count(batch.labels.size());
  for (const TensorView& tensor : batch.labels) write_tensor(writer, tensor);
  writer.write_flag(batch.meta.has_value());
  if (batch.meta) {
    writer.write_count(batch.meta->size());
    writer.write_bytes(*batch.meta);
  }
  writer.write_flag(batch.batch_id.has_value());
  if (batch.batch_id) writer.write(*batch.batch_id);
  return writer.take();
}

std::vector<std::byte> encode_ids_only(const Batch& batch) {
  ByteWriter writer(batch.ids_section.size() + 10);
  writer.write(std::uint32_t{0});
  writer.write_bytes(batch.ids_section);
  writer.write(std::uint32_t{0});
  writer.write_flag(false);
  writer.write_flag(false);
  return writer.take();
}

}  // namespace satrap
