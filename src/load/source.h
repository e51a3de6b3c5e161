// From the tensors of a model folder to the values of parameters.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "exec/params.h"
#include "io/safetensors.h"

namespace hone::load {

// What a parameter's value is made of.
struct Source {
  const io::TensorEntry* values = nullptr;
  const io::TensorEntry* scales = nullptr;  // fp8_block: fp32, one for each 128 x 128
  Format format = Format::f32;              // of the value as it lies in the file
};

// The source of every parameter in the store. Every tensor of the folder has a place, every
// parameter a tensor of its shape: UserError otherwise. architecture: named in errors.
std::vector<Source> find_sources(const io::CheckpointReader& reader, const ParamStore& params,
                                 const std::string& architecture);

// Formats that computations in a dtype multiply by as they lie in the file.
bool usable_as_is(DType run, Format file, bool matrix);
// Format::f32 for what has none of its own.
Format format_of(io::FileType type);

// Whether a tensor is the matrix of a linear layer of a block: what quantised folders hold
// quantised.
bool is_linear_weight(const std::string& name, const std::vector<int64_t>& shape);

// Whether a tensor holds the scales of another one; a tensor with its scales. UserError.
bool is_scale(const io::CheckpointReader& reader, const std::string& name);
Source with_scales(const io::CheckpointReader& reader, const io::TensorEntry& values);

// Whether read_numbers takes values of a type.
bool has_numbers(io::FileType type);
// Numbers of a value from element `first` on.
void read_numbers(const Source& source, int64_t first, std::span<float> out);

// Throws UserError naming the first of the values and scales that isn't a finite number.
void check_finite(const io::CheckpointReader& reader, std::span<const Source> sources,
                  ThreadPool& pool);

}  // namespace hone::load
