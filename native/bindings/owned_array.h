// Arrays made natively, handed to Python without a copy.
#ifndef SATRAP_BINDINGS_OWNED_ARRAY_H_
#define SATRAP_BINDINGS_OWNED_ARRAY_H_

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

// A NumPy array over the vector's items, which it takes over.
template <class Item>
nanobind::object array_of(std::vector<Item> items, std::initializer_list<std::size_t> shape,
                          nanobind::dlpack::dtype dtype = nanobind::dtype<Item>()) {
  auto owned = std::make_unique<std::vector<Item>>(std::move(items));
  Item* data = owned->data();
  nanobind::capsule owner(owned.get(),
                          [](void* vector) noexcept { delete static_cast<std::vector<Item>*>(vector); });
  static_cast<void>(owned.release());
  return nanobind::cast(
      nanobind::ndarray<nanobind::numpy>(data, shape.size(), shape.begin(), owner, nullptr, dtype));
}

template <class Item>
nanobind::object array_of(std::vector<Item> items) {
  const std::size_t n = items.size();
  return array_of(std::move(items), {n});
}

// The same for items that were allocated without being written first.
template <class Item>
nanobind::object array_of(std::unique_ptr<Item[]> items, std::initializer_list<std::size_t> shape,
                          nanobind::dlpack::dtype dtype = nanobind::dtype<Item>()) {
  Item* data = items.get();
  nanobind::capsule owner(data, [](void* array) noexcept { delete[] static_cast<Item*>(array); });
  static_cast<void>(items.release());
  return nanobind::cast(
      nanobind::ndarray<nanobind::numpy>(data, shape.size(), shape.begin(), owner, nullptr, dtype));
}

constexpr nanobind::dlpack::dtype kFloat16{static_cast<std::uint8_t>(nanobind::dlpack::dtype_code::Float), 16,
                                           1};

#endif  // SATRAP_BINDINGS_OWNED_ARRAY_H_
