/**
 * Clients of other languages: each is built from what docs/other-languages.md has under its heading
 * and a driver, and run against the service.
 *
 * Invariants:
 * - a language whose tools are not on the machine, or whose registry cannot be reached, is skipped
 *   by name;
 * - whatever else goes wrong while building is a failure;
 * - a build is kept under `.keyward/languages/` until the document, the driver, the contract or the
 *   tools change.
 *
 * Knows no language.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { before, describe, type TestContext, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { eventually, sharedService } from '../support/kit.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const BUILDS = join(ROOT, '.keyward', 'languages');
const STAMP = '.stamp';
/**
 * What tools print when their registry is out of reach; one that answers "there is no such version"
 * is not.
 */
const UNREACHABLE =
  /resolve host|name resolution|no such host|unknown ?host|dial tcp|connection refused|timed out|i\/o timeout|network is unreachable|NewConnectionError|Could not transfer artifact|connect to server|proxyconnect/i;
/** The first build on a machine compiles whole libraries, beside all other tests. */
const PATIENCE_MS = 1_800_000;
/**
 * Pages end before they have 4,000,000 bytes, with whole entries: the next one would have been too
 * much for it.
 */
const LARGE_PAGE = 3_000_000;

/**
 * A language as its test file describes it. Commands are run by bash, in the folder of the build;
 * beside it may be a `venv`, whose programs come first.
 */
export interface Language {
  /** The heading in the document. */
  readonly name: string;
  /** Prints the versions of the tools, and fails where one is missing. */
  readonly tools: string;
  /** Files of `test/languages/drivers/`, and where they go in the build. */
  readonly files: Readonly<Record<string, string>>;
  readonly env?: Readonly<Record<string, string>>;
  /** Before what the document says. */
  readonly prepare?: string;
  /** After what the document says. */
  readonly compile?: string;
  /** Starts the driver; its arguments follow. */
  readonly run: string;
  /** What of an earlier build makes the next one quick. */
  readonly keep?: readonly string[];
  /** What the driver says of a connection that ended under a call: by default UNAVAILABLE. */
  readonly ended?: RegExp;
  /** Whether the driver can keep 256 calls with deadlines of 40 ms in flight. */
  readonly floods?: boolean;
}

interface Block {
  readonly language: string;
  /** Without one it is a command. */
  readonly file: string | undefined;
  readonly text: string;
}

const toolsOf = (language: Language) => bash(language, ROOT, language.tools);

/** Returns whether the language's tools are on this machine. */
export function hasTools(language: Language): boolean {
  return toolsOf(language).code === 0;
}

/** Returns whether what the document has now is built. */
export function isBuilt(language: Language): boolean {
  const stamp = stampOf(language, toolsOf(language).output, blocksOf(language.name));
  return readIfThere(join(folderOf(language), STAMP)) === stamp;
}

const readIfThere = (file: string) => (existsSync(file) ? readFileSync(file, 'utf8') : undefined);

/** Declares the tests of a language's client. */
export function testLanguage(language: Language): void {
  const tools = toolsOf(language);
  const skip =
    tools.code === 0 ? false : `not on this machine: ${language.name}'s tools (${language.tools})`;

  describe(`${language.name}, by what docs/other-languages.md has`, {
    skip,
    timeout: PATIENCE_MS,
  }, () => {
    let unreachable: string | undefined;
    before(
      () => {
        unreachable = build(language, tools.output);
      },
      { timeout: PATIENCE_MS },
    );
    const shared = sharedService(prepareService);
    let driver: Driver;
    before(async () => {
      if (unreachable !== undefined) return;
      driver = startDriver(language, shared);
      await driver.until('reading');
    });
    const testBuilt = (name: string, check: (t: TestContext) => void | Promise<void>) =>
      test(name, (t) => (unreachable === undefined ? check(t) : t.skip(unreachable)));

    testBuilt('opens what it has encrypted', () => {
      assert.deepEqual(driver.linesOf('opened'), ['hello']);
    });

    testBuilt("reads a failed call's ErrorInfo by the language's own helper", () => {
      assert.deepEqual(driver.linesOf('failure'), ['3 DECRYPTION_FAILED keyward false']);
    });

    testBuilt("reads a batch item's google.rpc.Status by the language's own package", () => {
      assert.deepEqual(driver.linesOf('item'), ['true', '5 RESOURCE_NOT_FOUND keyward false']);
    });

    testBuilt('takes a page of the audit log that is as large as one can be', () => {
      assert.ok(Number(driver.linesOf('page')[0]) > LARGE_PAGE, driver.output());
    });

    if (language.floods) {
      testBuilt(
        'leaves the server as it was after 256 calls at a time with deadlines of 40 ms',
        async () => {
          const { service, keyward } = shared;
          const flood = startDriver(language, shared, ['flood']);
          await flood.until('flooded');
          const asked = { name: KEY, plaintext: Buffer.from('after') };
          const answered = eventually(() => keyward.encrypt(asked)).then(() => 'answered');
          assert.equal(await Promise.race([service.ended, answered]), 'answered');
        },
      );
    }

    testBuilt('tells that a call may be repeated whose connection ended', async () => {
      await shared.service.kill();
      await driver.until('ended');
      const [code, ...rest] = (driver.linesOf('ended')[0] ?? '').split(' ');
      assert.match(String(code), language.ended ?? /^14$/, driver.output());
      assert.deepEqual(rest, ['', '', 'true'], 'no reason, no domain, and worth another try');
    });
  });
}

const PARENT = 'tenants/acme';
const KEY = `${PARENT}/keys/orders`;

/**
 * The tenant and the key of the document, and more of an audit log than one page has: a batch is
 * one entry, which has the encryption context of every item.
 */
async function prepareService(keyward: KeywardClient): Promise<void> {
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: PARENT, keyId: 'orders' });
  const encryptionContext = Object.fromEntries(
    Array.from({ length: 60 }, (_, index) => [`k${index}`, 'v']),
  );
  const item = { parent: PARENT, ciphertext: Buffer.from('none'), encryptionContext };
  const requests = Array.from({ length: 100 }, () => item);
  const page = async () => {
    const { entries } = await keyward.listAuditEntries({ parent: PARENT, pageSize: 1_000 });
    return entries.reduce((sum, { leaf }) => sum + leaf.length, 0);
  };
  for (let bytes = 0; bytes <= LARGE_PAGE; bytes = await page()) {
    await keyward.batchDecrypt({ parent: PARENT, requests });
  }
}

/** A client of another language, under way. */
interface Driver {
  /** Waits for a line that begins with this word; throws when the driver ends without. */
  until(word: string): Promise<void>;
  /** What followed this word, in each line that began with it. */
  linesOf(word: string): readonly string[];
  output(): string;
}

function startDriver(
  language: Language,
  { service, environment }: ReturnType<typeof sharedService>,
  more: readonly string[] = [],
): Driver {
  const folder = folderOf(language);
  const { address, cert, key, ca } = service.connectOptions();
  const files = Object.entries({ ca, cert, key }).map(([name, pem]) => {
    const file = join(environment.directory, `caller-${name}.pem`);
    writeFileSync(file, String(pem), { mode: 0o600 });
    return file;
  });
  const command = `exec ${language.run} "$@"`;
  const child: ChildProcess = spawn('bash', ['-c', command, 'driver', address, ...files, ...more], {
    cwd: folder,
    env: environmentOf(language),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  process.once('exit', () => child.kill('SIGKILL'));
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    assert.ok(stream);
    createInterface({ input: stream }).on('line', (line) => lines.push(line));
  }
  let ended = false;
  child.once('close', () => {
    ended = true;
  });
  const linesOf = (word: string) =>
    lines.filter((line) => line.split(' ')[0] === word).map((line) => line.slice(word.length + 1));
  return {
    linesOf,
    output: () => lines.join('\n'),
    until: async (word) => {
      while (linesOf(word).length === 0 && !ended)
        await new Promise((resolve) => setTimeout(resolve, 20));
      assert.ok(
        linesOf(word).length > 0,
        `the client ended without "${word}":\n${lines.join('\n')}`,
      );
    },
  };
}

/**
 * Builds the client unless that was done; returns why it could not, where a registry is out of
 * reach.
 */
function build(language: Language, tools: string): string | undefined {
  const folder = folderOf(language);
  const blocks = blocksOf(language.name);
  const stamp = stampOf(language, tools, blocks);
  const stampFile = join(folder, STAMP);
  if (readIfThere(stampFile) === stamp) return undefined;
  mkdirSync(folder, { recursive: true });
  for (const name of readdirSync(folder)) {
    if (!language.keep?.includes(name))
      rmSync(join(folder, name), { recursive: true, force: true });
  }
  for (const { file, text } of blocks) {
    if (file === undefined) continue;
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    writeFileSync(join(folder, file), text);
  }
  for (const [driver, file] of Object.entries(language.files))
    cpSync(driverFile(driver), join(folder, file));
  const commands = blocks.flatMap(({ file, text }) => (file === undefined ? [text] : []));
  const script = [language.prepare ?? '', ...commands, language.compile ?? ''].join('\n');
  const { code, output } = bash(language, folder, script);
  if (code !== 0 && UNREACHABLE.test(output))
    return `the registry of ${language.name} cannot be reached`;
  assert.equal(code, 0, `what the document has for ${language.name} does not build:\n${output}`);
  writeFileSync(stampFile, stamp);
  return undefined;
}

/**
 * The fenced blocks under a heading of the document: "```go keyward.go" is a file, "```sh" a
 * command.
 */
function blocksOf(heading: string): readonly Block[] {
  const text = readFileSync(join(ROOT, 'docs', 'other-languages.md'), 'utf8');
  const section = text.split(/^## /m).find((part) => part.startsWith(`${heading}\n`));
  assert.ok(section, `docs/other-languages.md has no "${heading}"`);
  const blocks = [...section.matchAll(/^```(\w+)(?: (\S+))?\n([\s\S]*?)^```$/gm)].map(
    ([, kind = '', file, content = '']) => ({ language: kind, file, text: content }),
  );
  assert.ok(
    blocks.some(({ file }) => file === undefined) && blocks.some(({ file }) => file !== undefined),
    `${heading} has a command and a file`,
  );
  return blocks;
}

function stampOf(language: Language, tools: string, blocks: readonly Block[]): string {
  const contract = join(ROOT, 'proto', 'keyward', 'v1');
  const hash = createHash('sha256').update(JSON.stringify([language, tools, blocks]));
  for (const file of [
    ...Object.keys(language.files).map(driverFile),
    ...readdirSync(contract).map((name) => join(contract, name)),
    ...readdirSync(ROOT)
      .filter((name) => name.startsWith('buf.'))
      .map((name) => join(ROOT, name)),
  ]) {
    hash.update(file).update(readFileSync(file));
  }
  return hash.digest('hex');
}

function bash(language: Language, folder: string, script: string) {
  const { status, stdout, stderr } = spawnSync('bash', ['-euo', 'pipefail', '-c', script], {
    cwd: folder,
    env: environmentOf(language),
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  });
  return { code: status, output: `${stdout}${stderr}` };
}

function environmentOf(language: Language): NodeJS.ProcessEnv {
  const own = [
    join(BUILDS, 'venv', 'bin'),
    join(ROOT, 'node_modules', '.bin'),
    process.env['PATH'],
  ];
  return {
    ...process.env,
    KEYWARD: ROOT,
    BUF_CACHE_DIR: join(ROOT, '.keyward', 'buf'),
    PATH: own.join(':'),
    ...language.env,
  };
}

function folderOf({ name }: Language): string {
  return join(BUILDS, name.toLowerCase().replaceAll(' ', '-'));
}

function driverFile(name: string): string {
  return join(import.meta.dirname, 'drivers', name);
}
