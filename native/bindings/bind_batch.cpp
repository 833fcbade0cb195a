#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "decoded_batch.h"
#include "owned_array.h"
#include "satrap/batch_codec.h"

namespace nb = nanobind;

namespace {

using satrap::Batch;
using satrap::IdFeature;
using satrap::IdsKind;
using satrap::TensorType;
using satrap::TensorView;

using Ids = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Offsets = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

// ---- tensors ----------------------------------------------------------------------------------------------

nb::dlpack::dtype dtype_of(TensorType type) {
  using Code = nb::dlpack::dtype_code;
  const auto make = [](Code code, std::size_t bytes) {
    return nb::dlpack::dtype{static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bytes * 8), 1};
  };
  const std::size_t size = satrap::item_size(type);
  switch (type) {
    case TensorType::kBool:
      return make(Code::Bool, size);
    case TensorType::kFloat16:
    case TensorType::kFloat32:
    case TensorType::kFloat64:
      return make(Code::Float, size);
    case TensorType::kInt8:
    case TensorType::kInt16:
    case TensorType::kInt32:
    case TensorType::kInt64:
      return make(Code::Int, size);
    default:
      return make(Code::UInt, size);
  }
}

std::optional<TensorType> tensor_type_of(nb::dlpack::dtype dtype) {
  for (std::uint32_t type = 0; type < satrap::kTensorTypes; ++type) {
    if (dtype_of(static_cast<TensorType>(type)) == dtype) return static_cast<TensorType>(type);
  }
  return std::nullopt;
}

// NumPy may look at an array's data as it lies: aligned, and booleans only 0 and 1.
bool usable_in_place(const TensorView& tensor) {
  if (tensor.type == TensorType::kBool) {
    return std::ranges::all_of(tensor.data, [](std::byte item) { return item <= std::byte{1}; });
  }
  return reinterpret_cast<std::uintptr_t>(tensor.data.data()) % satrap::item_size(tensor.type) == 0;
}

nb::object copy_of(const TensorView& tensor, const std::vector<std::size_t>& shape) {
  auto items = std::make_unique_for_overwrite<std::byte[]>(tensor.data.size());
  if (tensor.type == TensorType::kBool) {
    std::ranges::transform(tensor.data, items.get(),
                           [](std::byte item) { return std::byte{item != std::byte{0}}; });
  } else {
    std::ranges::copy(tensor.data, items.get());
  }
  void* data = items.get();
  nb::capsule owner(data, [](void* array) noexcept { delete[] static_cast<std::byte*>(array); });
  static_cast<void>(items.release());
  return nb::cast(
      nb::ndarray<nb::numpy>(data, shape.size(), shape.data(), owner, nullptr, dtype_of(tensor.type)));
}

nb::object array_of_tensor(const TensorView& tensor, nb::handle owner) {
  const std::vector<std::size_t> shape(tensor.shape.begin(), tensor.shape.end());
  if (tensor.data.empty() || !usable_in_place(tensor)) return copy_of(tensor, shape);
  return nb::cast(nb::ndarray<nb::numpy, nb::ro>(tensor.data.data(), shape.size(), shape.data(), owner,
                                                 nullptr, dtype_of(tensor.type)));
}

nb::list named_arrays(const std::vector<TensorView>& tensors, nb::handle owner) {
  nb::list result;
  for (const TensorView& tensor : tensors) {
    result.append(nb::make_tuple(tensor.name, array_of_tensor(tensor, owner)));
  }
  return result;
}

// ---- the decoded batch ------------------------------------------------------------------------------------

const char* kind_name(const DecodedBatch& decoded) {
  switch (decoded.batch.ids) {
    case IdsKind::kFeatures:
      return "features";
    case IdsKind::kRemote:
      return "remote";
    case IdsKind::kNone:
      break;
  }
  return "none";
}

std::optional<std::size_t> batch_size(const DecodedBatch& decoded) {
  const Batch& batch = decoded.batch;
  if (!batch.id_features.empty()) return batch.id_features.front().batch_size();
  if (!batch.non_id_features.empty()) return batch.non_id_features.front().shape.front();
  if (!batch.labels.empty()) return batch.labels.front().shape.front();
  return std::nullopt;
}

nb::tuple id_feature(const DecodedBatch& decoded, std::size_t position) {
  if (position >= decoded.batch.id_features.size()) throw nb::index_error("no such feature");
  const IdFeature& feature = decoded.batch.id_features[position];
  std::vector<std::uint64_t> values(feature.positions.size());
  std::vector<std::uint32_t> offsets(feature.batch_size() + 1);
  {
    const nb::gil_scoped_release unlocked;
    satrap::to_sample_order(feature, values.data(), offsets.data());
  }
  return nb::make_tuple(feature.name, array_of(std::move(values)), array_of(std::move(offsets)));
}

nb::bytes bytes_of(std::span<const std::byte> bytes) { return nb::bytes(bytes.data(), bytes.size()); }

std::optional<nb::bytes> meta(const DecodedBatch& decoded) {
  if (!decoded.batch.meta) return std::nullopt;
  return bytes_of(*decoded.batch.meta);
}

std::optional<std::tuple<std::string, std::uint64_t, std::uint64_t>> remote(const DecodedBatch& decoded) {
  if (decoded.batch.ids != IdsKind::kRemote) return std::nullopt;
  const satrap::RemoteReference& reference = decoded.batch.remote;
  return std::tuple(reference.worker_address, reference.reference, reference.batcher);
}

nb::list feature_names(const DecodedBatch& decoded) {
  nb::list names;
  for (const IdFeature& feature : decoded.batch.id_features) names.append(feature.name);
  return names;
}

// ---- encoding ---------------------------------------------------------------------------------------------

using NamedIds = std::tuple<std::string, Ids, Offsets>;
using NamedArray = std::pair<std::optional<std::string>, Array>;

std::vector<TensorView> views_of(const std::vector<NamedArray>& arrays) {
  std::vector<TensorView> views;
  for (const auto& [name, array] : arrays) {
    const auto type = tensor_type_of(array.dtype());
    if (!type)
      throw std::invalid_argument("tensor " + name.value_or("without a name") +
                                  " has a dtype that cannot travel");
    if (array.ndim() == 0) throw std::invalid_argument("a scalar has no samples");
    TensorView view{*type, {}, name, {static_cast<const std::byte*>(array.data()), array.nbytes()}};
    for (std::size_t axis = 0; axis < array.ndim(); ++axis) view.shape.push_back(array.shape(axis));
    views.push_back(std::move(view));
  }
  return views;
}

nb::bytes encode(const std::optional<std::vector<NamedIds>>& id_features,
                 const std::vector<NamedArray>& non_id_features, const std::vector<NamedArray>& labels,
                 bool requires_grad, const std::optional<nb::bytes>& meta_data,
                 std::optional<std::uint64_t> batch_id) {
  Batch batch;
  batch.non_id_features = views_of(non_id_features);
  batch.labels = views_of(labels);
  batch.requires_grad = requires_grad;
  batch.batch_id = batch_id;
  if (meta_data) batch.meta = {static_cast<const std::byte*>(meta_data->data()), meta_data->size()};
  std::vector<std::byte> bytes;
  {
    const nb::gil_scoped_release unlocked;
    if (id_features) {
      batch.ids = IdsKind::kFeatures;
      for (const auto& [name, values, offsets] : *id_features) {
        batch.id_features.push_back(
            satrap::group_by_id(name, {values.data(), values.shape(0)}, {offsets.data(), offsets.shape(0)}));
      }
    }
    bytes = satrap::encode_batch(batch);
  }
  return bytes_of(bytes);
}

}  // namespace

void register_batch(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<DecodedBatch>(m, "DecodedBatch",
                           "A PERSIA batch, proved consistent. Tensors are views into its buffer.")
      .def_prop_ro("feature_names", &feature_names, "Names of the id features, in order.")
      .def_prop_ro("ids_kind", &kind_name, "'none', 'features', or 'remote'.")
      .def_prop_ro("requires_grad", [](const DecodedBatch& self) { return self.batch.requires_grad; })
      .def_prop_ro("batch_size", &batch_size,
                   "Samples; None in a batch without features, tensors, and labels.")
      .def_prop_ro("batch_id", [](const DecodedBatch& self) { return self.batch.batch_id; })
      .def_prop_ro("meta", &meta, "The bytes that travel with the batch, or None.")
      .def_prop_ro("remote", &remote,
                   "Of ids kept elsewhere: (worker address, reference, batcher), else None.")
      .def("id_feature", &id_feature, "position"_a,
           "(name, values u64[nnz], offsets u32[samples + 1]) of one id feature, in sample order.")
      .def(
          "non_id_features",
          [](nb::handle self) {
            return named_arrays(nb::cast<const DecodedBatch&>(self).batch.non_id_features, self);
          },
          "[(name or None, array [samples, ...])]: read-only views, copies where the data lies unaligned.")
      .def(
          "labels",
          [](nb::handle self) {
            return named_arrays(nb::cast<const DecodedBatch&>(self).batch.labels, self);
          },
          "The same for the labels.")
      .def(
          "ids_only",
          [](const DecodedBatch& self) {
            std::vector<std::byte> bytes = satrap::encode_ids_only(self.batch);
            return bytes_of(bytes);
          },
          "Bytes of a batch of the same ids without tensors, labels, meta, batch id.");

  m.def(
      "decode_persia_batch", [](nb::handle data) { return std::make_unique<DecodedBatch>(data); }, "data"_a,
      "Decode PersiaBatch.to_bytes(), from any contiguous buffer, which is held and must not change.\n\n"
      "Raises DecodeError. The GIL is released.");
  m.def(
      "encode_persia_batch", &encode, "id_features"_a.none(), "non_id_features"_a, "labels"_a,
      "requires_grad"_a, "meta"_a.none(), "batch_id"_a.none(),
      "The bytes of a batch. id_features: [(name, values u64[nnz], offsets u32[samples + 1])], or None for a "
      "batch without ids; tensors: [(name or None, C-contiguous array)]; all of the same samples.\n\n"
      "Raises ValueError for offsets that are none, a dtype that cannot travel, more than 65,535 samples. "
      "The "
      "GIL is released.");
}
