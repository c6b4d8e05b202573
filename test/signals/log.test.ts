/**
 * The log when what reads it fails: a full disk, a reader that is gone, a reader that does not
 * read.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { connect } from 'keyward-client';
import { freePort } from '../../dev/postgres.ts';
import { TESTER } from '../support/grants.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  runCommand,
  setMode,
} from '../support/kit.ts';

const MAIN = join(import.meta.dirname, '..', '..', 'src', 'main.ts');

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
  ) {
    const [port, health] = ports;
    this.#environment = environment;
    this.#address = `127.0.0.1:${port}`;
    this.#healthPort = health;
    const listening = { KEYWARD_LISTEN: this.#address, ...this.#healthSettings };
    this.child = spawn(process.execPath, [MAIN, 'serve'], {
      env: { ...environment.variables, ...listening },
      stdio: ['ignore', stdout, 'inherit'],
    });
    this.ended = new Promise((resolve) =>
      this.child.once('exit', (code, signal) => resolve(signal ?? code)),
    );
  }

  static async start(environment: Environment, stdout: 'pipe' | number): Promise<Logging> {
    await setMode(environment, 'production');
    const logging = new Logging(environment, [await freePort(), await freePort()], stdout);
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

  /** Has the service write so many lines. */
  async writes(lines: number): Promise<void> {
    const { ca } = this.#environment;
    const { certPem: cert, keyPem: key } = ca.issue({
      subject: 'tester',
      usage: 'client',
      uris: [TESTER],
    });
    const client = connect({ address: this.#address, ca: ca.certPem, cert, key });
    try {
      for (let line = 0; line < lines; line++) await client.listTenants();
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
    await logging.writes(1_000);
    await logging.serves();
    let text = '';
    logging.child.stdout?.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    logging.child.kill('SIGTERM');
    assert.equal(await logging.ended, 0);
    const lines = text.trim().split('\n');
    assert.equal(lines.filter((line) => JSON.parse(line).msg === 'call').length, 1_000);
  });

  test('of which the reader never reads holds up no end', async () => {
    await using environment = await newEnvironment();
    using logging = await Logging.start(environment, 'pipe');
    await logging.writes(1_000);
    logging.child.kill('SIGTERM');
    assert.equal(await logging.ended, 0);
  });
});
