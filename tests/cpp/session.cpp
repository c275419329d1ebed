// libckpt::Session and libckpt::Options: the usual loop, logs, moves, and what is thrown.
#include "check.hpp"

#include <cmath>
#include <csignal>
#include <map>

using libckpt::LogLevel;
using libckpt::Model;
using libckpt::Options;
using libckpt::Session;
using libckpt::Status;

static_assert(!std::is_copy_constructible_v<Options> && std::is_nothrow_move_constructible_v<Options>);
static_assert(!std::is_copy_constructible_v<Session> && std::is_nothrow_move_constructible_v<Session> &&
              std::is_nothrow_move_assignable_v<Session>);

static Options weights_only() { return Options().save_weights_only().durability(libckpt::Durability::None); }

static void the_usual_loop() {
  std::vector<float> weights = {0, 0};
  Model model;
  model.add("layers/dense/vars/0", weights, {2});
  std::vector<std::string> lines;
  Session session(std::filesystem::path("session") / "{epoch:02d}-{val_loss:.2f}.weights.h5",
                  weights_only().monitor("val_loss").save_best_only().verbose().log(
                      [&lines](LogLevel level, const char* line) {
                        CHECK(level == LogLevel::Info);
                        lines.push_back(line);
                      }));
  session.prepare(model);
  CHECK(!session.best() && !session.best_path() && !session.last_stats() && !session.path());
  throws([&] { session.load_best(model); }, Status::NotFound, "best");

  const double losses[] = {1.0, 0.5, 0.75};
  for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
    session.on_epoch_begin(epoch);
    session.on_train_batch_end(0, {});
    weights[0] = static_cast<float>(epoch);
    session.on_epoch_end(epoch, {{"loss", 2.0}, {"val_loss", losses[epoch]}});
    CHECK(session.should_save() == (epoch < 2));
    if (session.should_save()) {
      const std::string path = session.path().value();
      session.save(model);
      CHECK(exists(path.c_str()));
    }
  }
  session.wait_buffers();
  session.wait();
  CHECK(session.best() == 0.5 && session.best_path() == "session/02-0.50.weights.h5");
  CHECK(session.last_stats().value().bytes > 8);
  session.load_best(model);
  CHECK(weights[0] == 1);
  CHECK(lines.size() == 5);
  CHECK(lines[0] == "Epoch 1: val_loss improved from None to 1.00000, saving model to session/01-1.00.weights.h5");
  CHECK(lines[4] == "Epoch 3: val_loss did not improve from 0.50000");

  {
    Session fresh("session/resume-{epoch}.weights.h5", weights_only());
    CHECK(!fresh.resume(model) && !fresh.state("rng"));
    fresh.set_state("rng", std::string("a\0b", 3));
    weights[1] = 7;
    fresh.on_epoch_end(4, {{"val_loss", 0.5}});
    fresh.save(model);
    weights[1] = 0;
    Session again("session/resume-{epoch}.weights.h5", weights_only());
    const auto resumed = again.resume(model).value();
    CHECK(resumed.epoch == 5 && resumed.batch == 0 && !resumed.best && resumed.path == "session/resume-5.weights.h5");
    CHECK(weights[1] == 7 && again.state("rng") == std::string("a\0b", 3));
    model.add("layers/dense_9/vars/0", weights, {2});
    throws([&] { again.resume(model); }, Status::Mismatch, "dense_9");
  }
  throws([&] { session.save(model); }, Status::State, "due");
  throws([&] { session.on_epoch_end(3, {{"loss", 1.0}}); }, Status::Template, "val_loss");
  session.on_epoch_end(3, std::map<std::string, double>{{"val_loss", 0.25}});
  CHECK(session.path() == "session/04-0.25.weights.h5");
}

// A log function lives as long as anything that can call it, and what it throws goes nowhere.
static void log_functions() {
  auto count = std::make_shared<int>(0);
  auto options = std::make_unique<Options>(weights_only().save_best_only().log([count](LogLevel level, const char*) {
    CHECK(level == LogLevel::Warn);
    ++*count;
    throw std::runtime_error("not through C");
  }));
  auto first = std::make_unique<Session>("session/first.weights.h5", *options);
  Session second("session/second.weights.h5", *options);
  options->log(nullptr);
  Session silent("session/silent.weights.h5", options->verbose(0));
  options.reset();
  CHECK(count.use_count() == 2);
  first->on_epoch_end(0, {});
  second.on_epoch_end(0, {});
  CHECK(*count == 2);
  first.reset();
  second.on_epoch_end(1, {});
  CHECK(*count == 3 && count.use_count() == 2);
  second = Session("session/third.weights.h5", weights_only());
  CHECK(count.use_count() == 1);
}

// Saves in the background: failures are thrown by the next call, functions live as long as what can call them.
static void in_the_background() {
  std::vector<float> weights(1 << 20, 1.0F);
  Model model;
  model.add("w", weights, {1 << 20});
  auto calls = std::make_shared<std::vector<std::string>>();
  {
    Session session("session/behind-{epoch}.weights.h5",
                    weights_only()
                        .async(libckpt::Async::Borrow)
                        .backpressure(libckpt::Backpressure::Block)
                        .lock(libckpt::Lock::Wait)
                        .backend(libckpt::Backend::Auto)
                        .progress([calls](const char* path, std::uint64_t done, std::uint64_t total) {
                          if (done == total) calls->push_back(path);
                          throw std::runtime_error("not through C");
                        }));
    for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
      session.wait_buffers();
      weights[0] = static_cast<float>(epoch);
      session.on_epoch_end(epoch, {});
      session.save(model);
    }
    session.wait();
    session.cancel();
    CHECK(calls->size() == 3 && calls->back() == "session/behind-3.weights.h5" && exists(calls->back().c_str()));
    CHECK(calls.use_count() == 2);
  }
  CHECK(calls.use_count() == 1);

  CHECK(std::fclose(std::fopen("session/file", "w")) == 0);
  Session failing("session/file/{epoch}.weights.h5",
                  weights_only().async(libckpt::Async::Copy).staging_limit(4 << 20));
  failing.on_epoch_end(0, {});
  failing.save(model);
  throws([&] { failing.wait(); }, Status::Io, "session/file/1.weights.h5' failed");
  failing.wait();
}

// What makes a save due beyond Keras, and the end.
static void when() {
  std::vector<float> weights = {0, 0};
  Model model;
  model.add("layers/dense/vars/0", weights, {2});
  {
    Session session("session/when-{batch}.weights.h5", weights_only()
                                                           .save_freq(CKPT_SAVE_FREQ_NEVER)
                                                           .save_every_secs(1e9)
                                                           .save_on_signal(SIGUSR1)
                                                           .save_on_signal(SIGUSR2));
    session.on_train_batch_end(0, {});
    CHECK(!session.preempted() && !session.should_save());
    CHECK(std::raise(SIGUSR2) == 0);
    session.on_train_batch_end(1, {});
    CHECK(session.preempted() && session.path() == "session/when-2.weights.h5");
    session.on_train_end();
    CHECK(!session.should_save());
  }
  Session paid("session/paid-{batch}.weights.h5", weights_only().overhead_budget(0.5).mtbf(1e9));
  paid.on_train_batch_end(0, {});
  CHECK(paid.should_save());

  Session best("session/end-{epoch}.weights.h5", weights_only().on_nan(libckpt::OnNan::Aside).restore_best());
  for (const double loss : {1.0, 0.5, static_cast<double>(NAN), 2.0}) {
    weights[0] = static_cast<float>(loss);
    best.on_epoch_end(0, {{"val_loss", loss}});
    CHECK(best.path() == (loss == loss ? "session/end-1.weights.h5" : "session/end-1.nan.weights.h5"));
    if (loss < 2.0 || loss != loss) best.save(model);
  }
  throws([&] { best.on_train_end(); }, Status::InvalidArgument, "model is NULL");
  best.on_train_end(model);
  CHECK(weights[0] == 0.5F);
  throws([] { Options().save_on_signal(SIGKILL); }, Status::InvalidArgument, "cannot be caught");
}

static void moves() {
  Session a("session/a.weights.h5", weights_only());
  ckpt* const handle = a.get();
  Session b = std::move(a);
  CHECK(b.get() == handle && a.get() == nullptr && !a.should_save() && !a.path());
  throws([&] { a.on_epoch_end(0, {}); }, Status::InvalidArgument, "session is NULL");
  throws([&] { a.best(); }, Status::InvalidArgument, "session is NULL");
  a = std::move(b);
  a.on_epoch_end(0, {});
  CHECK(a.should_save());

  Options options = Options().monitor("loss").keep_last(1);
  Options moved = std::move(options.keep_best(2).keep_every(3).keep_every_secs(60).save_last("last.keras"));
  throws([&] { options.verbose(); }, Status::InvalidArgument, "options is NULL");
  options = std::move(moved);
  options.mode(libckpt::Mode::Min).save_freq(10).initial_value_threshold(1).min_delta(0.1).threads(2).max_shard_bytes(1 << 20);
}

static void refuses() {
  throws([] { Session("{epoch"); }, Status::Template, "filepath");
  throws([] { Session("a.weights.h5"); }, Status::InvalidArgument, "save_weights_only");
  throws([] { Session(std::string("a\0.keras", 8)); }, Status::InvalidArgument, "NUL");
  throws([] { Session(static_cast<const char*>(nullptr)); }, Status::InvalidArgument, "filepath is NULL");
  throws([] { Options().monitor(""); }, Status::InvalidArgument, "metric is empty");
  throws([] { Options().mode(static_cast<libckpt::Mode>(3)); }, Status::InvalidArgument, "mode is 3");
  throws([] { Options().max_shard_bytes(0); }, Status::InvalidArgument, "bytes is 0");
  throws([] { Options().lock(static_cast<libckpt::Lock>(3)); }, Status::InvalidArgument, "kind");
  throws([] { Options().backpressure(static_cast<libckpt::Backpressure>(2)); }, Status::InvalidArgument, "backpressure");
  throws([] { Options().backend(static_cast<libckpt::Backend>(3)); }, Status::InvalidArgument, "backend is 3");
  throws([] { Options().staging_allocator(nullptr, [](void*, std::size_t, void*) {}); }, Status::InvalidArgument,
         "alloc is NULL");
}

int main() {
  fresh_directory("session");
  the_usual_loop();
  log_functions();
  in_the_background();
  when();
  moves();
  refuses();
  return 0;
}
