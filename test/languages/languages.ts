/**
 * The languages of docs/other-languages.md, and how each client is built and run. How they are
 * tested is `rig.ts`.
 */
import { QUICK_GO } from './quick-go.ts';
import type { Language } from './rig.ts';

const GO: Language = {
  name: 'Go',
  tools: 'go version',
  files: { 'main.go': 'main.go' },
  env: QUICK_GO,
  prepare: 'go mod init example.com/you',
  compile: 'go mod tidy && go build -o client .',
  run: './client',
  floods: true,
};

const QUICK_JAVA = '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto';

/** Only what it needs of the generated classes is compiled. */
const JAVA: Language = {
  name: 'Java',
  // The document's generators are of this platform.
  tools: '[ "$(uname -sm)" = "Linux x86_64" ] && javac -version && mvn -v',
  files: { 'Main.java': 'src/Main.java' },
  env: { MAVEN_OPTS: QUICK_JAVA, JDK_JAVAC_OPTIONS: '-proc:none -nowarn -g:none' },
  compile: `javac ${QUICK_JAVA.replaceAll('-X', '-J-X')} -cp 'lib/*' -sourcepath src -d classes src/Main.java`,
  run: `java ${QUICK_JAVA} -cp 'classes:lib/*' Main`,
};

/** From one virtual environment, by gRPC's own package and by grpclib. */
const IN_PYTHON = {
  tools: 'python3 --version && python3 -c "import ensurepip, venv"',
  prepare: 'python3 -m venv ../venv',
  run: 'python main.py',
};
const PYTHON: Language = { ...IN_PYTHON, name: 'Python', files: { 'main.py': 'main.py' } };
const PYTHON_WITH_GRPCLIB: Language = {
  ...IN_PYTHON,
  name: 'Python with grpclib',
  files: { 'main_grpclib.py': 'main.py' },
  ended: /^StreamTerminatedError$/,
};

/** Without debug information it is compiled in two thirds of the time. */
const RUST: Language = {
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
};

export const LANGUAGES: readonly Language[] = [GO, JAVA, PYTHON, PYTHON_WITH_GRPCLIB, RUST];
