#pragma once
// The tables of records.db, format 1: docs/node.md, "Files". Internal to node/blob_store.cc.
#include <cstdint>

namespace hsm {

// Rowid tables with unique indexes: values are kilobytes (DESIGN 5, measured).
constexpr char kSchema[] = R"sql(
CREATE TABLE IF NOT EXISTS node_state(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS heads(
  id INTEGER PRIMARY KEY, data_set INTEGER NOT NULL, attempt BLOB NOT NULL, uid BLOB NOT NULL,
  incarnation INTEGER NOT NULL, revision INTEGER NOT NULL, state INTEGER NOT NULL,
  body BLOB NOT NULL, mac BLOB NOT NULL, mac_generation INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS heads_key ON heads(data_set, uid, attempt);
CREATE INDEX IF NOT EXISTS heads_uid ON heads(uid);
CREATE INDEX IF NOT EXISTS heads_attempt ON heads(attempt) WHERE attempt <> x'';
CREATE TABLE IF NOT EXISTS versions(
  id INTEGER PRIMARY KEY, data_set INTEGER NOT NULL, attempt BLOB NOT NULL, uid BLOB NOT NULL,
  incarnation INTEGER NOT NULL, version BLOB NOT NULL, ordinal INTEGER NOT NULL, proved INTEGER NOT NULL,
  check_value BLOB NOT NULL, body BLOB NOT NULL, mac BLOB NOT NULL, mac_generation INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS versions_key ON versions(data_set, uid, version);
CREATE INDEX IF NOT EXISTS versions_uid ON versions(uid);
CREATE INDEX IF NOT EXISTS versions_attempt ON versions(attempt) WHERE attempt <> x'';
CREATE TABLE IF NOT EXISTS tombstones(id INTEGER PRIMARY KEY, uid BLOB NOT NULL UNIQUE, incarnation INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS quarantine(
  id INTEGER PRIMARY KEY, data_set INTEGER NOT NULL, uid BLOB NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
  body BLOB NOT NULL, mac BLOB NOT NULL, mac_generation INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS quarantine_uid ON quarantine(uid);
CREATE INDEX IF NOT EXISTS quarantine_at ON quarantine(at);
)sql";
constexpr int64_t kFormat = 1;

}  // namespace hsm
