/**
 * The Dockerfile's stages, done in plain folders where there is no container engine.
 *
 * Owns what each instruction comes to here. COPY is done in full, `.dockerignore` included, so a
 * file that the Dockerfile forgets is missing here as well; so are the build and the laying out.
 * `npm ci` links what set-up installed by `npm ci`, of that only what the instruction's options
 * leave; what only a container has (packages of the system, accounts) isn't done. An instruction
 * that this file doesn't know fails the test.
 */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';

const ROOT = join(import.meta.dirname, '..', '..');

interface Stage {
  readonly from: string;
  readonly instructions: readonly { readonly keyword: string; readonly text: string }[];
}

/** A stage that was done. */
export interface Built {
  /** What stands for the stage's root folder. */
  readonly root: string;
  /** What ENV set. */
  readonly environment: Readonly<Record<string, string>>;
  /**
   * Instructions of which the last counts, by their keywords: ENTRYPOINT, CMD, USER, STOPSIGNAL,
   * HEALTHCHECK.
   */
  readonly settings: Readonly<Record<string, string>>;
}

/** The Dockerfile's stages by their names, in order. */
function readDockerfile(): ReadonlyMap<string, Stage> {
  const stages = new Map<string, Stage>();
  let instructions: Stage['instructions'][number][] = [];
  const text = readFileSync(join(ROOT, 'Dockerfile'), 'utf8');
  const lines = text.replaceAll(/^\s*#.*\n/gm, '').replaceAll(/\\\n\s*/g, '');
  for (const line of lines.split('\n').filter((each) => each !== '')) {
    const [, keyword = '', rest = ''] = /^([A-Z]+) (.*)$/.exec(line) ?? [];
    const [, from, name] = keyword === 'FROM' ? (/^(\S+) AS (\S+)$/.exec(rest) ?? []) : [];
    if (from !== undefined && name !== undefined) {
      instructions = [];
      stages.set(name, { from, instructions });
    } else instructions.push({ keyword, text: rest });
  }
  return stages;
}

/**
 * Does a stage and all that it stands on, each in a folder of its own in `work`; `done` keeps them
 * for the next.
 */
export function buildStage(name: string, work: string, done: Map<string, Built>): Built {
  const known = done.get(name);
  if (known !== undefined) return known;
  const stages = readDockerfile();
  const stage = stages.get(name);
  if (stage === undefined) throw new Error(`the Dockerfile has no stage ${name}`);
  const root = join(work, name);
  mkdirSync(root, { mode: 0o755 });
  const below = stages.has(stage.from) ? buildStage(stage.from, work, done) : undefined;
  if (below !== undefined) cpSync(below.root, root, { recursive: true, verbatimSymlinks: true });
  const environment: Record<string, string> = { ...below?.environment };
  const settings: Record<string, string> = { WORKDIR: '/', ...below?.settings };
  for (const { keyword, text } of stage.instructions) {
    const workingDirectory = settings['WORKDIR'] ?? '/';
    if (keyword === 'ENV') Object.assign(environment, readVariables(text));
    else if (keyword === 'RUN') run(text, root, workingDirectory);
    else if (keyword === 'COPY') {
      const from = /^--from=(\S+) /.exec(text)?.[1];
      const source = from === undefined ? undefined : buildStage(from, work, done).root;
      copy(text.replace(/^--from=\S+ /, ''), { source, root, workingDirectory });
    } else settings[keyword] = text;
  }
  const built = { root, environment, settings };
  done.set(name, built);
  return built;
}

function readVariables(text: string): Record<string, string> {
  const pairs = text.matchAll(/([A-Za-z_]\w*)=(?:"([^"]*)"|(\S*))/g);
  return Object.fromEntries(
    [...pairs].map(([, name = '', quoted, bare]) => [name, quoted ?? bare ?? '']),
  );
}

interface Places {
  /** Another stage's root; the context unless given. */
  readonly source: string | undefined;
  readonly root: string;
  readonly workingDirectory: string;
}

/** COPY; a destination that ends in / is a folder. */
function copy(text: string, { source, root, workingDirectory }: Places): void {
  const mode = /^--chmod=(\d+) /.exec(text)?.[1];
  const words = text.replace(/^--chmod=\d+ /, '').split(' ');
  const to = words.pop() ?? '';
  const target = join(root, resolve(workingDirectory, to));
  for (const word of words) {
    const from = join(source ?? ROOT, word);
    if (!existsSync(from) || (source === undefined && isIgnored(word)))
      throw new Error(`COPY finds no ${word}`);
    const into =
      to.endsWith('/') && statSync(from).isFile() ? join(target, basename(word)) : target;
    mkdirSync(dirname(into), { recursive: true, mode: 0o755 });
    const filter = (file: string) =>
      source !== undefined || !isIgnored(file.slice(ROOT.length + 1));
    cpSync(from, into, { recursive: true, filter });
    if (mode !== undefined) chmodSync(into, Number.parseInt(mode, 8));
  }
}

/** The last pattern that fits a path, or a folder that it is in, decides. */
function isIgnored(path: string): boolean {
  const parts = path.split('/');
  const folders = parts.map((_, index) => parts.slice(0, index + 1).join('/'));
  let ignored = false;
  for (const line of readFileSync(join(ROOT, '.dockerignore'), 'utf8').split('\n')) {
    const [, not, pattern = ''] = /^(!?)([^#].*)$/.exec(line) ?? [];
    if (pattern === '') continue;
    const expression = pattern
      .replaceAll(/[.+^${}()|[\]\\]/g, '\\$&')
      .replaceAll(/\*\*\/|\*/g, (stars) => (stars === '*' ? '[^/]*' : '(.*/)?'));
    if (folders.some((folder) => new RegExp(`^${expression}$`).test(folder))) ignored = not !== '!';
  }
  return ignored;
}

type Run = (directory: string, root: string, match: RegExpExecArray) => void;

/** How each RUN is done here. */
const RUNS: readonly (readonly [RegExp, Run])[] = [
  [/^apt-get update && apt-get install /, () => {}],
  [/^rm -rf .* && useradd /, () => {}],
  [/^npm ci --ignore-scripts$/, (directory) => linkModules(directory, () => true)],
  [
    /^npm ci --omit=dev --omit=optional$/,
    (directory) =>
      linkModules(directory, ({ dev, optional, devOptional }) => !(dev || optional || devOptional)),
  ],
  [
    /^npm run build$/,
    (directory) => {
      const { scripts } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'));
      runNode(scripts.build, directory);
    },
  ],
  [
    /^node scripts\/image-tree\.js (\/\S+)$/,
    (directory, root, match) =>
      runNode(`node scripts/image-tree.js ${join(root, match[1] ?? '')}`, directory),
  ],
];

function run(text: string, root: string, workingDirectory: string): void {
  const command = text
    .replaceAll(/--mount=\S+ /g, '')
    .trim()
    .replaceAll(/\s+/g, ' ');
  for (const [expression, work] of RUNS) {
    const match = expression.exec(command);
    if (match === null) continue;
    work(join(root, workingDirectory), root, match);
    return;
  }
  throw new Error(`how is this done without a container engine? RUN ${text}`);
}

function runNode(command: string, cwd: string): void {
  const [program, ...args] = command.split(' ');
  if (program !== 'node') throw new Error(`not a program of Node: ${command}`);
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd, encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} failed:\n${stdout}${stderr}`);
}

interface Locked {
  readonly dev?: boolean;
  readonly optional?: boolean;
  readonly devOptional?: boolean;
  /** Whether it is a workspace, and where. */
  readonly link?: boolean;
  readonly resolved?: string;
}

/** node_modules as `npm ci` would leave it, by links to the packages that set-up installed. */
function linkModules(directory: string, wanted: (locked: Locked) => boolean): void {
  const lockfile = JSON.parse(readFileSync(join(directory, 'package-lock.json'), 'utf8'));
  const packages: Readonly<Record<string, Locked>> = lockfile.packages;
  for (const [path, locked] of Object.entries(packages)) {
    const isTop = path.lastIndexOf('node_modules/') === 0;
    const installed = join(ROOT, path);
    if (!isTop || !wanted(locked) || !existsSync(installed)) continue;
    const link = join(directory, path);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(locked.link ? join(directory, locked.resolved ?? '') : installed, link);
  }
  const programs = join(ROOT, 'node_modules', '.bin');
  mkdirSync(join(directory, 'node_modules', '.bin'), { recursive: true });
  for (const name of readdirSync(programs)) {
    symlinkSync(join(programs, name), join(directory, 'node_modules', '.bin', name));
  }
}
