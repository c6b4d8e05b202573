/**
 * The log when what reads it fails: a full disk, a reader that is gone, a reader that does not
 * read.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync, readFileSync, truncateSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { connect } from 'keyward-client';
import { freePort } from '../../dev/postgres.ts';
import { programFrom } from '../support/compiled.ts';
import {
  type Environment,
  eventually,
  type LogLine,
  newEnvironment,
  runCommand,
  setMode,
} from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';

const MAIN = programFrom('src/main.ts');

/** Calls at once, each of which makes a line. */
const AT_ONCE = 10;

/** The service with its stdout going there; resolves once it serves. */
class Logging implements Disposable {
  readonly child: ChildProcess;
  readonly ended: Promise<number | string | null>;
  readonly #environment: Environment;
  readonly #healthPort: number;
  readonly #address: string;

  private constructor(
    environment: Environment,
    ports: readonly [number, number],
    stdout: 'pipe' | number,
    limits: string,
  ) {
    const [port, health] = ports;
    this.#environment = environment;
    this.#address = `127.0.0.1:${port}`;
    this.#healthPort = health;
    const listening = { KEYWARD_LISTEN: this.#address, ...this.#healthSettings };
    const command = [process.execPath, MAIN, 'serve'];
    this.child = spawn('/bin/sh', ['-c', `${limits}exec "$0" "$@"`, ...command], {
      env: { ...environment.variables, ...listening },
      stdio: ['ignore', stdout, 'inherit'],
    });
    this.ended = new Promise((resolve) =>
      this.child.once('exit', (code, signal) => resolve(signal ?? code)),
    );
  }

  static async start(
    environment: Environment,
    stdout: 'pipe' | number,
    limits = '',
  ): Promise<Logging> {
    await setMode(environment, 'production');
    const ports = [await freePort(), await freePort()] as const;
    const logging = new Logging(environment, ports, stdout, limits);
    await logging.serves();
    return logging;
  }

  get #healthSettings() {
    return { KEYWARD_HEALTH_LISTEN: `127.0.0.1:${this.#healthPort}` };
  }

  async serves(): Promise<void> {
    await eventually(async () => {
      // Costs less than a command that finds nothing there.
      const socket = createConnection(this.#healthPort, '127.0.0.1');
      await once(socket, 'connect').finally(() => socket.destroy());
      const { output } = await runCommand(this.#environment, ['health'], this.#healthSettings);
      assert.equal(output, 'SERVING\n');
    });
  }

  /** Has the service write so many lines, a multiple of {@link AT_ONCE}. */
  async writes(lines: number): Promise<void> {
    const { ca } = this.#environment;
    const { certPem: cert, keyPem: key } = ca.issue({
      subject: 'tester',
      usage: 'client',
      uris: [TESTER],
    });
    const client = connect({ address: this.#address, ca: ca.certPem, cert, key });
    try {
      for (let line = 0; line < lines; line += AT_ONCE)
        await Promise.all(Array.from({ length: AT_ONCE }, () => client.listTenants()));
    } finally {
      client.close();
    }
  }

  [Symbol.dispose](): void {
    this.child.kill('SIGKILL');
  }
}

describe('the log', () => {
  test('on a full disk costs the service neither its life nor its end in order', async () => {
    await using environment = await newEnvironment();
    const full = openSync('/dev/full', 'w');
    try {
      using logging = await Logging.start(environment, full);
      await logging.serves();
      logging.child.kill('SIGTERM');
      assert.equal(await logging.ended, 0);
    } finally {
      closeSync(full);
    }
  });

  test('in a file that cannot grow loses whole lines, no calls, and is told how many were lost', async () => {
    await using environment = await newEnvironment();
    const path = join(environment.directory, 'log');
    const file = openSync(path, 'a');
    try {
      // To a process the limit is what a full file system is, but without a file system of its own.
      using logging = await Logging.start(environment, file, 'ulimit -f 128; ');
      await logging.writes(400);
      await logging.serves();
      const before = linesOf(path);
      truncateSync(path);
      const after = await eventually(async () => {
        await logging.writes(AT_ONCE);
        const lines = linesOf(path);
        assert.ok(lines.some(({ alert }) => alert === 'log-lines-lost'));
        return lines;
      });
      const calls = (lines: readonly LogLine[]) => lines.filter(({ msg }) => msg === 'call').length;
      assert.ok(calls(before) > 50 && calls(before) < 400, `${calls(before)} of 400 calls`);
      const lost = after.find(({ alert }) => alert === 'log-lines-lost')?.['lines'];
      assert.ok(Number(lost) >= 400 - calls(before), `${lost} lines are counted as lost`);
      logging.child.kill('SIGTERM');
      assert.equal(await logging.ended, 0);
    } finally {
      closeSync(file);
    }
  });

  test('of which nobody reads any more costs the service neither its life nor its end in order', async () => {
    await using environment = await newEnvironment();
    using logging = await Logging.start(environment, 'pipe');
    logging.child.stdout?.destroy();
    await logging.serves();
    logging.child.kill('SIGTERM');
    assert.equal(await logging.ended, 0);
  });

  test('of which the reader does not read costs the service nothing, and is written once it does', async () => {
    await using environment = await newEnvironment();
    using logging = await Logging.start(environment, 'pipe');
    // More than a pipe and the stream in this process hold.
    await logging.writes(400);
    await logging.serves();
    let text = '';
    logging.child.stdout?.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    logging.child.kill('SIGTERM');
    assert.equal(await logging.ended, 0);
    const lines = text.trim().split('\n');
    assert.equal(lines.filter((line) => JSON.parse(line).msg === 'call').length, 400);
  });

  test('of which the reader never reads holds up no end', async () => {
    await using environment = await newEnvironment();
    using logging = await Logging.start(environment, 'pipe');
    await logging.writes(400);
    logging.child.kill('SIGTERM');
    assert.equal(await logging.ended, 0);
  });

  test('holds up no end either when another process has made the same pipe block again', async () => {
    await using environment = await newEnvironment();
    const path = join(environment.directory, 'pipe');
    execFileSync('mkfifo', [path]);
    const pipe = openSync(path, constants.O_RDWR);
    try {
      // When it ends, Node puts back what it found: a pipe that blocks.
      const other = spawn(process.execPath, ['-e', 'process.stdin.resume()'], {
        stdio: ['pipe', pipe, 'inherit'],
      });
      using logging = await Logging.start(environment, pipe);
      other.stdin?.end();
      await once(other, 'exit');
      await logging.writes(400);
      logging.child.kill('SIGTERM');
      assert.equal(await logging.ended, 0);
    } finally {
      closeSync(pipe);
    }
  });
});

/** The whole lines of a log; each must be JSON. */
function linesOf(path: string): LogLine[] {
  const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1);
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as LogLine);
}
