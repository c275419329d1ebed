/// @file
/// libckpt for C++17: model checkpoints, what Keras' ModelCheckpoint is to Python.
///
///     libckpt::Session session("checkpoints/{epoch:02d}-{val_loss:.3f}.keras",
///                              libckpt::Options().monitor("val_loss").save_best_only().verbose());
///     libckpt::Model model;
///     model.add("layers/dense/vars/0", kernel, {64, 32}).set_config(config_json);
///     ...
///     session.on_epoch_end(epoch, {{"loss", loss}, {"val_loss", val_loss}});
///     if (session.should_save())
///       session.save(model);
///
/// One class a noun of ckpt.h, under its name (in a namespace of another name: `ckpt` is C's session). What ckpt.h says
/// of a function holds for the member of that name: lifetimes, threads, and when it fails. What differs:
///
/// - A failure is an exception, libckpt::Error. What may not be there (the best so far, a tensor) is a std::optional.
/// - Handles are freed by their owners, which can be moved, not copied. One that was moved from can be assigned to
///   and destroyed; its other members fail as C does of NULL.
/// - Little is allocated beside what C allocates: what is returned as a string or a vector, the copy of a log
///   function, and logs that come as pairs.
///
/// Strings are UTF-8; a std::filesystem::path is taken wherever a path of the file system is.

#ifndef CKPT_HPP
#define CKPT_HPP

#include "ckpt_keras.hpp"
#include "ckpt_model.hpp"
#include "ckpt_reader.hpp"
#include "ckpt_session.hpp"
#include "ckpt_types.hpp"

/// The same names under C's own, for whom that reads better: ckpt::Model is libckpt::Model. Nobody makes one.
struct ckpt {
  ckpt() = delete;

  using Error = libckpt::Error;
  using Keras = libckpt::Keras;
  using Model = libckpt::Model;
  using Options = libckpt::Options;
  using Reader = libckpt::Reader;
  using Session = libckpt::Session;
  using Status = libckpt::Status;

  /// bindings/torch/ckpt_torch.hpp
  struct torch;
};

#endif  // CKPT_HPP
