#include <nanobind/nanobind.h>

void register_ids(nanobind::module_&) {}
