"""A module that counts in state of every kind, and what it says in a job that begins from a snapshot."""

from __future__ import annotations

#: `count` counts in a memory, an internal global and a table; `boot` sets all of them to 40.
COUNTER = """
(module
  (memory (export "memory") 2 8)
  (global $n (mut i32) (i32.const 0))
  (table $t 64 128 funcref)
  (func $f)
  (elem declare func $f)
  (func (export "boot")
    (i32.store (i32.const 70000) (i32.const 40))
    (global.set $n (i32.const 40))
    (table.fill $t (i32.const 0) (ref.func $f) (i32.const 40)))
  (func $count (export "count") (result i32)
    (local $filled i32)
    (i32.store (i32.const 70000) (i32.add (i32.load (i32.const 70000)) (i32.const 1)))
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (block $end (loop $next
      (br_if $end (ref.is_null (table.get $t (local.get $filled))))
      (local.set $filled (i32.add (local.get $filled) (i32.const 1)))
      (br $next)))
    (table.set $t (local.get $filled) (ref.func $f))
    (i32.add (local.get $filled) (i32.const 1))
    (i32.add (i32.mul (global.get $n) (i32.const 1000)))
    (i32.add (i32.mul (i32.load (i32.const 70000)) (i32.const 1000000))))
  (func (export "counted") (param i32) (result i32) (call $count))
  (func (export "slowly") (result i32) (local $n i32)
    (loop $next (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3000000))))
    (call $count))
  (func (export "grow") (result i32) (drop (call $count)) (memory.grow (i32.const 1)))
  (func (export "grow_table") (result i32) (drop (call $count)) (table.grow $t (ref.func $f) (i32.const 1)))
  (func (export "trap") (drop (call $count)) unreachable)
  (func (export "spin") (drop (call $count)) (loop (br 0)))
  (func (export "_start") (i32.store (i32.const 0) (call $count)))
  (func (export "where") (result i32) (i32.load (i32.const 0))))
"""
FIRST = 41_041_041  #: what `count` says in a job that begins from there
