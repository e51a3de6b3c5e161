// Samples that were tokenised before, on disk. One file for each fingerprint of a data set; entries
// are only ever appended, each with a hash of its own, so a crash loses at most the entries that
// were being written. One process writes at a time (a file lock); others read what they found on
// opening.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace hone::data {

class TokenCache {
 public:
  // folder is made if it is missing. Failures are no errors: warn gets a line and the cache is off.
  TokenCache(const std::string& folder, uint64_t fingerprint, int64_t samples,
             std::function<void(const std::string&)> warn);
  ~TokenCache();
  TokenCache(const TokenCache&) = delete;
  TokenCache& operator=(const TokenCache&) = delete;

  // False if the sample isn't there, or is damaged. Any thread.
  bool find(int64_t index, Sample& sample) const;
  // Keeps the sample; it is written some time later, at the latest by flush(). Any thread.
  void add(const Sample& sample);
  void flush();

  int64_t size() const;  // samples in it
  const std::string& path() const { return path_; }
  int64_t memory_bytes() const { return static_cast<int64_t>(offsets_.capacity() * 8); }

 private:
  void open(const std::string& folder, uint64_t fingerprint);
  void read_entries();
  void flush_locked();
  void stop_writing(const std::string& why);

  std::string path_;
  std::function<void(const std::string&)> warn_;
  int fd_ = -1;
  bool writable_ = false;
  mutable std::mutex mutex_;
  std::vector<uint64_t> offsets_;  // of each sample's entry; 0 = not there
  int64_t count_ = 0;
  uint64_t end_ = 0;     // of the good entries in the file
  std::string pending_;  // to be written at end_
};

}  // namespace hone::data
