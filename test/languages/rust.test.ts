/** A client in Rust. Without debug information it is compiled in two thirds of the time. */
import { testLanguage } from './rig.ts';

testLanguage({
  name: 'Rust',
  tools: 'cargo --version && rustc --version',
  files: { 'main.rs': 'src/main.rs' },
  env: {
    CARGO_PROFILE_DEV_DEBUG: '0',
    CARGO_PROFILE_DEV_CODEGEN_UNITS: '1',
    CARGO_PROFILE_DEV_DEBUG_ASSERTIONS: 'false',
    CARGO_PROFILE_DEV_OVERFLOW_CHECKS: 'false',
    CARGO_PROFILE_DEV_INCREMENTAL: 'false',
    CARGO_PROFILE_DEV_PANIC: 'abort',
  },
  compile: 'cargo build --quiet',
  run: 'target/debug/you',
  keep: ['target', 'Cargo.lock'],
  // CANCELLED or UNKNOWN, by what was under way.
  ended: /^[12]$/,
  floods: true,
});
