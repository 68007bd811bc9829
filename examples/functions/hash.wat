;; A function of lang wasm: says the length and the SHA-256 of each line.
;;
;;     slimq fn deploy hash hash.wat
;;     echo hello | slimq add hash
;;
;; A batch comes as lines on standard input. For each of them one result line goes to standard output,
;; as soon as it is known: what was said counts, also when the module dies of a later line.
;;
;; memory     0  vector of WASI: place, length; then how much was read or written
;;           64  state of the digest           128  message schedule
;;          384  constants, initial state, digits
;;          704  line to be written            896  last block or two of a message
;;         4096  all lines that were given
(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 384)
    "\98\2f\8a\42\91\44\37\71\cf\fb\c0\b5\a5\db\b5\e9\5b\c2\56\39\f1\11\f1\59\a4\82\3f\92\d5\5e\1c\ab"
    "\98\aa\07\d8\01\5b\83\12\be\85\31\24\c3\7d\0c\55\74\5d\be\72\fe\b1\de\80\a7\06\dc\9b\74\f1\9b\c1"
    "\c1\69\9b\e4\86\47\be\ef\c6\9d\c1\0f\cc\a1\0c\24\6f\2c\e9\2d\aa\84\74\4a\dc\a9\b0\5c\da\88\f9\76"
    "\52\51\3e\98\6d\c6\31\a8\c8\27\03\b0\c7\7f\59\bf\f3\0b\e0\c6\47\91\a7\d5\51\63\ca\06\67\29\29\14"
    "\85\0a\b7\27\38\21\1b\2e\fc\6d\2c\4d\13\0d\38\53\54\73\0a\65\bb\0a\6a\76\2e\c9\c2\81\85\2c\72\92"
    "\a1\e8\bf\a2\4b\66\1a\a8\70\8b\4b\c2\a3\51\6c\c7\19\e8\92\d1\24\06\99\d6\85\35\0e\f4\70\a0\6a\10"
    "\16\c1\a4\19\08\6c\37\1e\4c\77\48\27\b5\bc\b0\34\b3\0c\1c\39\4a\aa\d8\4e\4f\ca\9c\5b\f3\6f\2e\68"
    "\ee\82\8f\74\6f\63\a5\78\14\78\c8\84\08\02\c7\8c\fa\ff\be\90\eb\6c\50\a4\f7\a3\f9\be\f2\78\71\c6"
    "\67\e6\09\6a\85\ae\67\bb\72\f3\6e\3c\3a\f5\4f\a5\7f\52\0e\51\8c\68\05\9b\ab\d9\83\1f\19\cd\e0\5b"
    "0123456789abcdef")

  (func (export "_start") (local $end i32) (local $at i32) (local $line i32)
    (local.set $end (call $read_all))
    (local.set $at (i32.const 4096))
    (local.set $line (local.get $at))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 10))
          (then
            (call $digest (local.get $line) (i32.sub (local.get $at) (local.get $line)))
            (call $say (i32.sub (local.get $at) (local.get $line)))
            (local.set $line (i32.add (local.get $at) (i32.const 1)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next))))

  ;; Read standard input; return where it ends.
  (func $read_all (result i32) (local $end i32)
    (local.set $end (i32.const 4096))
    (loop $more
      (if (i32.gt_u (i32.add (local.get $end) (i32.const 65536))
                    (i32.mul (memory.size) (i32.const 65536)))
        (then
          (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))))
      (i32.store (i32.const 0) (local.get $end))
      (i32.store (i32.const 4) (i32.const 65536))
      (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))
        (then unreachable))
      (local.set $end (i32.add (local.get $end) (i32.load (i32.const 8))))
      (br_if $more (i32.load (i32.const 8))))
    (local.get $end))

  ;; Write "200 <length> <digest in hexadecimal>".
  (func $say (param $length i32) (local $to i32) (local $unit i32) (local $from i32)
    (i32.store (i32.const 704) (i32.const 0x20303032))
    (local.set $to (i32.const 708))
    (local.set $unit (i32.const 1))
    (loop $larger
      (if (i32.ge_u (i32.div_u (local.get $length) (local.get $unit)) (i32.const 10))
        (then
          (local.set $unit (i32.mul (local.get $unit) (i32.const 10)))
          (br $larger))))
    (loop $digit
      (i32.store8 (local.get $to)
        (i32.add (i32.const 48)
          (i32.rem_u (i32.div_u (local.get $length) (local.get $unit)) (i32.const 10))))
      (local.set $to (i32.add (local.get $to) (i32.const 1)))
      (local.set $unit (i32.div_u (local.get $unit) (i32.const 10)))
      (br_if $digit (local.get $unit)))
    (i32.store8 (local.get $to) (i32.const 32))
    (local.set $to (i32.add (local.get $to) (i32.const 1)))
    (loop $byte ;; words of the state are little-endian, digests are not
      (call $hex (local.get $to)
        (i32.load8_u (i32.add (i32.const 64) (i32.xor (local.get $from) (i32.const 3)))))
      (local.set $to (i32.add (local.get $to) (i32.const 2)))
      (local.set $from (i32.add (local.get $from) (i32.const 1)))
      (br_if $byte (i32.lt_u (local.get $from) (i32.const 32))))
    (i32.store8 (local.get $to) (i32.const 10))
    (i32.store (i32.const 0) (i32.const 704))
    (i32.store (i32.const 4) (i32.sub (local.get $to) (i32.const 703)))
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))
      (then unreachable)))

  (func $hex (param $to i32) (param $byte i32)
    (i32.store8 (local.get $to)
      (i32.load8_u offset=672 (i32.shr_u (local.get $byte) (i32.const 4))))
    (i32.store8 offset=1 (local.get $to)
      (i32.load8_u offset=672 (i32.and (local.get $byte) (i32.const 15)))))

  ;; Leave the SHA-256 of a message in the state.
  (func $digest (param $at i32) (param $length i32) (local $rest i32) (local $size i32)
    (memory.copy (i32.const 64) (i32.const 640) (i32.const 32))
    (local.set $rest (local.get $length))
    (block $tail
      (loop $whole
        (br_if $tail (i32.lt_u (local.get $rest) (i32.const 64)))
        (call $block (local.get $at))
        (local.set $at (i32.add (local.get $at) (i32.const 64)))
        (local.set $rest (i32.sub (local.get $rest) (i32.const 64)))
        (br $whole)))
    (memory.fill (i32.const 896) (i32.const 0) (i32.const 128))
    (memory.copy (i32.const 896) (local.get $at) (local.get $rest))
    (i32.store8 offset=896 (local.get $rest) (i32.const 0x80))
    (local.set $size
      (select (i32.const 64) (i32.const 128) (i32.lt_u (local.get $rest) (i32.const 56))))
    (i32.store offset=888 (local.get $size)
      (call $swap (i32.shr_u (local.get $length) (i32.const 29))))
    (i32.store offset=892 (local.get $size)
      (call $swap (i32.shl (local.get $length) (i32.const 3))))
    (call $block (i32.const 896))
    (if (i32.eq (local.get $size) (i32.const 128)) (then (call $block (i32.const 960)))))

  (func $swap (param $word i32) (result i32)
    (i32.or
      (i32.and (i32.rotl (local.get $word) (i32.const 8)) (i32.const 0x00ff00ff))
      (i32.and (i32.rotr (local.get $word) (i32.const 8)) (i32.const 0xff00ff00))))

  (func $block (param $at i32)
    (local $a i32) (local $b i32) (local $c i32) (local $d i32)
    (local $e i32) (local $f i32) (local $g i32) (local $h i32)
    (local $i i32) (local $one i32) (local $two i32)
    (loop $load
      (i32.store offset=128 (local.get $i)
        (call $swap (i32.load (i32.add (local.get $at) (local.get $i)))))
      (local.set $i (i32.add (local.get $i) (i32.const 4)))
      (br_if $load (i32.lt_u (local.get $i) (i32.const 64))))
    (loop $extend
      (local.set $one (i32.load offset=68 (local.get $i)))
      (local.set $two (i32.load offset=120 (local.get $i)))
      (i32.store offset=128 (local.get $i)
        (i32.add
          (i32.add
            (i32.load offset=64 (local.get $i))
            (i32.load offset=100 (local.get $i)))
          (i32.add
            (i32.xor
              (i32.xor
                (i32.rotr (local.get $one) (i32.const 7))
                (i32.rotr (local.get $one) (i32.const 18)))
              (i32.shr_u (local.get $one) (i32.const 3)))
            (i32.xor
              (i32.xor
                (i32.rotr (local.get $two) (i32.const 17))
                (i32.rotr (local.get $two) (i32.const 19)))
              (i32.shr_u (local.get $two) (i32.const 10))))))
      (local.set $i (i32.add (local.get $i) (i32.const 4)))
      (br_if $extend (i32.lt_u (local.get $i) (i32.const 256))))
    (local.set $a (i32.load (i32.const 64)))
    (local.set $b (i32.load (i32.const 68)))
    (local.set $c (i32.load (i32.const 72)))
    (local.set $d (i32.load (i32.const 76)))
    (local.set $e (i32.load (i32.const 80)))
    (local.set $f (i32.load (i32.const 84)))
    (local.set $g (i32.load (i32.const 88)))
    (local.set $h (i32.load (i32.const 92)))
    (local.set $i (i32.const 0))
    (loop $round
      (local.set $one
        (i32.add
          (i32.add
            (local.get $h)
            (i32.xor
              (i32.xor
                (i32.rotr (local.get $e) (i32.const 6))
                (i32.rotr (local.get $e) (i32.const 11)))
              (i32.rotr (local.get $e) (i32.const 25))))
          (i32.add
            (i32.xor
              (local.get $g)
              (i32.and (local.get $e) (i32.xor (local.get $f) (local.get $g))))
            (i32.add
              (i32.load offset=384 (local.get $i))
              (i32.load offset=128 (local.get $i))))))
      (local.set $two
        (i32.add
          (i32.xor
            (i32.xor
              (i32.rotr (local.get $a) (i32.const 2))
              (i32.rotr (local.get $a) (i32.const 13)))
            (i32.rotr (local.get $a) (i32.const 22)))
          (i32.or
            (i32.and (local.get $a) (local.get $b))
            (i32.and (local.get $c) (i32.or (local.get $a) (local.get $b))))))
      (local.set $h (local.get $g))
      (local.set $g (local.get $f))
      (local.set $f (local.get $e))
      (local.set $e (i32.add (local.get $d) (local.get $one)))
      (local.set $d (local.get $c))
      (local.set $c (local.get $b))
      (local.set $b (local.get $a))
      (local.set $a (i32.add (local.get $one) (local.get $two)))
      (local.set $i (i32.add (local.get $i) (i32.const 4)))
      (br_if $round (i32.lt_u (local.get $i) (i32.const 256))))
    (call $add (i32.const 64) (local.get $a))
    (call $add (i32.const 68) (local.get $b))
    (call $add (i32.const 72) (local.get $c))
    (call $add (i32.const 76) (local.get $d))
    (call $add (i32.const 80) (local.get $e))
    (call $add (i32.const 84) (local.get $f))
    (call $add (i32.const 88) (local.get $g))
    (call $add (i32.const 92) (local.get $h)))

  (func $add (param $to i32) (param $word i32)
    (i32.store (local.get $to) (i32.add (i32.load (local.get $to)) (local.get $word)))))
