"""Components in the text format, for tests of pools that run them."""

from __future__ import annotations

#: Functions of numbers, of text and of lists; and what goes wrong in one.
SHAPES = r"""
(component
  (core module $m
    (memory (export "mem") 1)
    (global $top (mut i32) (i32.const 1024))
    (global $calls (mut i32) (i32.const 0))
    (func (export "realloc") (param $old i32) (param i32 i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (block $ok
        (loop $more
          (br_if $ok (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
          (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
          (br $more)))
      (local.get $at))
    (func (export "reset") (param i32) (global.set $top (i32.const 1024)))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "wide") (param i64 f32 f64 i32 i32) (result f64)
      (f64.add (f64.convert_i64_u (local.get 0))
        (f64.add (f64.promote_f32 (local.get 1))
          (f64.add (local.get 2) (f64.convert_i32_s (i32.add (local.get 3) (local.get 4)))))))
    (func (export "count") (result i32)
      (global.set $calls (i32.add (global.get $calls) (i32.const 1))) (global.get $calls))
    (func (export "same") (param i32) (result i32) (local.get 0))
    (func (export "trap") unreachable)
    (func (export "spin") (loop $l (br $l)))
    (func $deep (export "deep") (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0))))
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "echo") (param i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1)) (i32.const 16))
    ;; twice as large: ok; none of it: an error
    (func (export "double") (param i32 i32) (result i32)
      (i32.store8 (i32.const 32) (i32.eqz (local.get 1)))
      (i32.store (i32.const 36) (select (i32.shl (local.get 1) (i32.const 1)) (i32.const 7) (local.get 1)))
      (i32.const 32))
    (func (export "swap") (param i32 i32) (result i32)
      (i32.store (i32.const 48) (local.get 1)) (i32.store (i32.const 52) (local.get 0)) (i32.const 48))
    (func (export "far") (result i32)
      (i32.store (i32.const 56) (i32.const 0x7ffffff0)) (i32.store (i32.const 60) (i32.const 100)) (i32.const 56)))
  (core instance $i (instantiate $m))
  (alias core export $i "mem" (core memory $mem))
  (type $point' (record (field "x-pos" s32) (field "y-pos" s32)))
  (export $point "point" (type $point'))
  (func (export "add") (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "add")))
  (func (export "wide") (param "a" u64) (param "b" f32) (param "c" f64) (param "d" s8) (param "e" u16) (result f64)
    (canon lift (core func $i "wide")))
  (func (export "count") (result u32) (canon lift (core func $i "count")))
  (func (export "same-char") (param "c" char) (result char) (canon lift (core func $i "same")))
  (func (export "same-bool") (param "b" bool) (result bool) (canon lift (core func $i "same")))
  (func (export "trap") (canon lift (core func $i "trap")))
  (func (export "spin") (canon lift (core func $i "spin")))
  (func (export "deep") (param "a" s32) (result s32) (canon lift (core func $i "deep")))
  (func (export "grow") (param "pages" u32) (result s32) (canon lift (core func $i "grow")))
  (func (export "echo") (param "s" string) (result string)
    (canon lift (core func $i "echo") (memory $mem) (realloc (core func $i "realloc"))
      (post-return (core func $i "reset"))))
  (func (export "echo-bytes") (param "data" (list u8)) (result (list u8))
    (canon lift (core func $i "echo") (memory $mem) (realloc (core func $i "realloc"))
      (post-return (core func $i "reset"))))
  (func (export "double") (param "data" (list u8)) (result (result u32 (error u32)))
    (canon lift (core func $i "double") (memory $mem) (realloc (core func $i "realloc"))
      (post-return (core func $i "reset"))))
  (func (export "swap") (param "p" $point) (result $point) (canon lift (core func $i "swap") (memory $mem)))
  (func (export "far") (result string) (canon lift (core func $i "far") (memory $mem)))
  (func $twice (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "add")))
  (instance $sums (export "plus-all" (func $twice)))
  (export "demo:sums/sums@1.2.0" (instance $sums))
)"""

#: Calls functions that are given to it, of an interface and at its root.
CALLER = r"""
(component
  (import "demo:host/log@1.0.0" (instance $log
     (export "add-up" (func (param "a" s32) (param "b" s32) (result s32)))
     (export "say" (func (param "s" string) (result u32)))))
  (import "twice" (func $twice (param "a" s32) (result s32)))
  (alias export $log "add-up" (func $addup))
  (alias export $log "say" (func $say))
  (core module $mem (memory (export "mem") 1) (data (i32.const 8) "hello")
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $mi (instantiate $mem))
  (core func $addup' (canon lower (func $addup)))
  (core func $twice' (canon lower (func $twice)))
  (core func $say' (canon lower (func $say) (memory (core memory $mi "mem")) (realloc (core func $mi "realloc"))))
  (core module $m
    (import "" "addup" (func $addup (param i32 i32) (result i32)))
    (import "" "twice" (func $twice (param i32) (result i32)))
    (import "" "say" (func $say (param i32 i32) (result i32)))
    (func (export "go") (param i32) (result i32) (call $twice (call $addup (local.get 0) (i32.const 1))))
    (func (export "speak") (result i32) (call $say (i32.const 8) (i32.const 5))))
  (core instance $i (instantiate $m (with "" (instance (export "addup" (func $addup')) (export "twice" (func $twice')) (export "say" (func $say'))))))
  (func (export "go") (param "a" s32) (result s32) (canon lift (core func $i "go")))
  (func (export "speak") (result u32) (canon lift (core func $i "speak")))
)"""

#: A command.  The first letter of its second argument says what it does beside printing: it fails (f), exits (x), traps (t),
#: loops (l), or prints without end (o).
COMMAND = r"""
(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $err))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $os (sub resource)))
    (alias outer 1 $err (type $e0))
    (export "error" (type $e (eq $e0)))
    (type $failed (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $se (eq $failed)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $os)) (param "contents" (list u8)) (result (result (error $se)))))))
  (alias export $streams "output-stream" (type $os))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $os (type $os1)) (export "output-stream" (type $os2 (eq $os1)))
    (export "get-stdout" (func (result (own $os2))))))
  (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
  (import "wasi:cli/environment@0.2.0" (instance $env (export "get-arguments" (func (result (list string))))))
  (alias export $streams "[method]output-stream.blocking-write-and-flush" (func $write))
  (alias export $stdout "get-stdout" (func $get))
  (alias export $exit "exit" (func $quit))
  (alias export $env "get-arguments" (func $args))
  (core module $mem (memory (export "mem") 1) (data (i32.const 8) "hello\n")
    (global $top (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core instance $mi (instantiate $mem))
  (alias core export $mi "mem" (core memory $memory))
  (core func $write' (canon lower (func $write) (memory $memory) (realloc (core func $mi "realloc"))))
  (core func $args' (canon lower (func $args) (memory $memory) (realloc (core func $mi "realloc"))))
  (core func $get' (canon lower (func $get)))
  (core func $quit' (canon lower (func $quit)))
  (core module $m
    (import "" "mem" (memory 1))
    (import "" "write" (func $write (param i32 i32 i32 i32)))
    (import "" "get" (func $get (result i32)))
    (import "" "args" (func $args (param i32)))
    (import "" "quit" (func $quit (param i32)))
    ;; the second argument's first letter says what to do: p prints, x exits, t traps, l loops, o prints without end
    (func (export "run") (result i32)
      (local $letter i32)
      (call $args (i32.const 64))
      (local.set $letter (i32.load8_u (i32.load (i32.add (i32.load (i32.const 64)) (i32.const 8)))))
      (call $write (call $get) (i32.const 8) (i32.const 6) (i32.const 128))
      (if (i32.eq (local.get $letter) (i32.const 120)) (then (call $quit (i32.const 1))))
      (if (i32.eq (local.get $letter) (i32.const 116)) (then unreachable))
      (if (i32.eq (local.get $letter) (i32.const 108)) (then (loop $l (br $l))))
      (if (i32.eq (local.get $letter) (i32.const 111)) (then
        (loop $l (call $write (call $get) (i32.const 8) (i32.const 4096) (i32.const 128)) (br $l))))
      (i32.eq (local.get $letter) (i32.const 102))))
  (core instance $i (instantiate $m (with "" (instance
     (export "mem" (memory $memory)) (export "write" (func $write')) (export "get" (func $get'))
     (export "args" (func $args')) (export "quit" (func $quit'))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $runi (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $runi))
)"""

#: Counters, which are resources; `dropped` tells how many are gone.
COUNTER = """(component
  (core module $m
    (global $dropped (mut i32) (i32.const 0))
    (func (export "drop") (param i32) (global.set $dropped (local.get 0)))
    (func (export "dropped") (result i32) (global.get $dropped))
    (func (export "get") (param i32) (result i32) (local.get 0)))
  (core instance $i (instantiate $m))
  (type $counter-made (resource (rep i32) (dtor (core func $i "drop"))))
  (core func $new (canon resource.new $counter-made))
  (core func $rep (canon resource.rep $counter-made))
  (core func $drop (canon resource.drop $counter-made))
  (core module $n
    (import "" "new" (func $new (param i32) (result i32)))
    (import "" "rep" (func $rep (param i32) (result i32)))
    (import "" "drop" (func $drop (param i32)))
    (func (export "new") (param i32) (result i32) (call $new (local.get 0)))
    (func (export "end") (param i32) (result i32) (local $rep i32)
      (local.set $rep (call $rep (local.get 0))) (call $drop (local.get 0)) (local.get $rep)))
  (core instance $j (instantiate $n (with "" (instance
    (export "new" (func $new)) (export "rep" (func $rep)) (export "drop" (func $drop))))))
  (export $counter "counter" (type $counter-made))
  (func (export "[constructor]counter") (param "start" u32) (result (own $counter)) (canon lift (core func $j "new")))
  (func (export "[method]counter.get") (param "self" (borrow $counter)) (result u32) (canon lift (core func $i "get")))
  (func (export "end") (param "c" (own $counter)) (result u32) (canon lift (core func $j "end")))
  (func (export "dropped") (result u32) (canon lift (core func $i "dropped"))))"""
