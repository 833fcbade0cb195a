#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "satrap/batch_codec.h"

namespace {

using satrap::Batch;
using satrap::DecodeError;
using satrap::IdFeature;
using satrap::TensorType;
using satrap::TensorView;

std::vector<std::byte> dense(std::size_t n) { return std::vector<std::byte>(n, std::byte{1}); }

// Three samples; `numbers` is what the tensors' views point to.
Batch sample_batch(const std::vector<std::byte>& numbers) {
  Batch batch;
  batch.non_id_features.push_back({TensorType::kFloat32, {3, 2}, "dense", std::span(numbers).first(24)});
  batch.non_id_features.push_back({TensorType::kBool, {3}, std::nullopt, std::span(numbers).first(3)});
  batch.ids = satrap::IdsKind::kFeatures;
  const std::vector<std::uint64_t> ids{7, 7, 9, 7, ~std::uint64_t{0}};
  const std::vector<std::uint32_t> offsets{0, 3, 3, 5};
  batch.id_features.push_back(satrap::group_by_id("user", ids, offsets));
  batch.id_features.push_back(satrap::group_by_id("", ids, offsets));
  batch.labels.push_back({TensorType::kInt64, {3, 1}, "label", std::span(numbers).first(24)});
  batch.meta = std::span(numbers).first(5);
  batch.batch_id = 77;
  return batch;
}

// The bytes in an allocation of just their size, so that ASan sees a read past the end.
struct Exact {
  explicit Exact(std::span<const std::byte> from) : data(new std::byte[from.size()]), size(from.size()) {
    if (size != 0) std::memcpy(data.get(), from.data(), size);
  }
  std::span<const std::byte> bytes() const { return {data.get(), size}; }

  std::unique_ptr<std::byte[]> data;
  std::size_t size;
};

bool decodes(std::span<const std::byte> from) {
  const Exact exact(from);
  try {
    const Batch batch = satrap::decode_batch(exact.bytes());
    for (const IdFeature& feature : batch.id_features) {
      std::vector<std::uint64_t> values(feature.positions.size());
      std::vector<std::uint32_t> offsets(feature.batch_size() + 1);
      satrap::to_sample_order(feature, values.data(), offsets.data());
    }
    satrap::encode_batch(batch);
    satrap::encode_ids_only(batch);
    return true;
  } catch (const DecodeError& error) {
    CHECK(error.offset <= from.size());
    return false;
  }
}

void test_round_trip() {
  const auto numbers = dense(64);
  const auto bytes = satrap::encode_batch(sample_batch(numbers));
  const Batch batch = satrap::decode_batch(bytes);
  CHECK(satrap::encode_batch(batch) == bytes);
  CHECK(batch.batch_id == 77u);
  CHECK(batch.id_features.size() == 2);
  const IdFeature& user = batch.id_features[0];
  CHECK((user.signs == std::vector<std::uint64_t>{7, 9, ~std::uint64_t{0}}));
  CHECK((user.sample_counts == std::vector<std::uint32_t>{3, 0, 2}));
  std::vector<std::uint64_t> values(5);
  std::vector<std::uint32_t> offsets(4);
  satrap::to_sample_order(user, values.data(), offsets.data());
  CHECK((values == std::vector<std::uint64_t>{7, 7, 9, 7, ~std::uint64_t{0}}));
  CHECK((offsets == std::vector<std::uint32_t>{0, 3, 3, 5}));
}

void test_ids_only_is_a_batch_of_its_own() {
  const auto numbers = dense(64);
  const auto bytes = satrap::encode_batch(sample_batch(numbers));
  const auto ids = satrap::encode_ids_only(satrap::decode_batch(bytes));
  const Batch batch = satrap::decode_batch(ids);
  CHECK(batch.id_features.size() == 2);
  CHECK(batch.non_id_features.empty() && batch.labels.empty() && !batch.meta && !batch.batch_id);
}

void test_cut_anywhere() {
  const auto numbers = dense(64);
  const auto bytes = satrap::encode_batch(sample_batch(numbers));
  for (std::size_t n = 0; n < bytes.size(); ++n) CHECK(!decodes(std::span(bytes).first(n)));
  CHECK(decodes(bytes));
}

void test_spoilt_anywhere() {
  const auto numbers = dense(64);
  const auto bytes = satrap::encode_batch(sample_batch(numbers));
  std::mt19937_64 random(3);
  for (int i = 0; i < 20000; ++i) {
    auto spoilt = bytes;
    const std::size_t flips = 1 + random() % 3;
    for (std::size_t k = 0; k < flips; ++k) {
      spoilt[random() % spoilt.size()] ^= std::byte{static_cast<unsigned char>(1u << random() % 8)};
    }
    decodes(spoilt);
  }
  for (std::size_t at = 0; at + 4 <= bytes.size(); ++at) {
    for (const std::uint32_t value : {~0u, 1u << 31, 70000u, 0u}) {
      auto spoilt = bytes;
      std::memcpy(spoilt.data() + at, &value, 4);
      decodes(spoilt);
    }
  }
}

void test_noise() {
  std::mt19937_64 random(4);
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> noise(random() % 120);
    for (std::byte& byte : noise) byte = std::byte{static_cast<unsigned char>(random() % 4 ? 0 : random())};
    decodes(noise);
  }
}

void test_utf8() {
  for (const char* good : {"", "a", "\xc3\xbc", "\xe5\x90\x8d", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"}) {
    CHECK(satrap::is_utf8(good));
  }
  for (const char* bad : {"\x80", "\xc0\xaf", "\xc3", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                          "\xff", "\xe5\x90", "a\xf0\x9f\x98"}) {
    CHECK(!satrap::is_utf8(bad));
  }
}

void test_more_ids_than_columns() {
  std::vector<std::uint64_t> ids(70000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = i % 69000;
  Batch batch;
  batch.ids = satrap::IdsKind::kFeatures;
  batch.id_features.push_back(satrap::group_by_id("f", ids, std::vector<std::uint32_t>{0, 70000}));
  CHECK(decodes(satrap::encode_batch(batch)));
}

}  // namespace

int main() {
  test_round_trip();
  test_ids_only_is_a_batch_of_its_own();
  test_cut_anywhere();
  test_spoilt_anywhere();
  test_noise();
  test_utf8();
  test_more_ids_than_columns();
  std::puts("batch_codec: ok");
}
