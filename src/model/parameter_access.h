// THE door to weights and gradients. The model asks for a bucket before it uses it, writes gradients into the views it
// gets, says when they are complete, and lets go; it never learns whether they lie in plain memory, in shards or on
// another device.
//
// Within one micro-batch the calls for a bucket come in this order (a bucket with two users, the tied embedding, is
// asked for again by the second and ready after the last):
//   before_forward .. release .. before_backward (views of weights and gradients) .. gradients_ready .. release
// Gradient views are formed from zero in each micro-batch: the model writes every tensor of a bucket once, or first
// writes and then adds (head chunks, tied embedding: FP32 views). Views are valid until release().
#pragma once

#include <array>

#include "kernels/view.h"
#include "src/model/parameter_table.h"

namespace dither {

/// A bucket's tensors by role; a role that the bucket lacks is an absent view.
struct BucketViews {
  std::array<ConstView, kRoles> weights;
  std::array<View, kRoles> gradients;  // absent in forward

  ConstView weight(Role role) const { return weights[static_cast<size_t>(role)]; }
  View gradient(Role role) const { return gradients[static_cast<size_t>(role)]; }
};

class ParameterAccess {
 public:
  virtual ~ParameterAccess() = default;
  virtual const BucketViews& before_forward(int bucket) = 0;
  virtual const BucketViews& before_backward(int bucket) = 0;
  virtual void gradients_ready(int bucket) = 0;
  virtual void release(int bucket) = 0;
};

}  // namespace dither
