/**
 * Debian's Prometheus, scraping one service, with the rules of deploy/; and what its API answers.
 *
 * Given back by `await using`; one that is still there when its test process ends is killed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort } from '../../dev/postgres.ts';
import { eventually } from '../support/kit.ts';
import { RULES } from './deployed.ts';

const PROGRAM = '/usr/bin/prometheus';
/** Why tests that need it are skipped; false where it is there. */
export const WITHOUT_PROMETHEUS = existsSync(PROGRAM)
  ? false
  : 'no Prometheus: apt-get install prometheus';

/** One series of an answer. */
export interface Series {
  readonly metric: Readonly<Record<string, string>>;
  readonly values: readonly (readonly [at: number, value: string])[];
}

const running = new Set<ChildProcess>();
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** Prometheus, as a process of its own. */
export class Prometheus implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  readonly #port: number;
  #output = '';

  private constructor(child: ChildProcess, port: number) {
    this.#child = child;
    this.#port = port;
    running.add(child);
    this.#ended = new Promise((resolve) => child.once('close', resolve));
    child.once('close', () => running.delete(child));
    for (const output of [child.stdout, child.stderr])
      output?.on('data', (chunk: Buffer) => {
        this.#output += chunk;
      });
  }

  /** Starts it in a folder, to scrape that port of this machine once a second. */
  static async start(directory: string, scraped: number): Promise<Prometheus> {
    const port = await freePort();
    const folder = join(directory, 'prometheus');
    mkdirSync(folder);
    const config = {
      global: { scrape_interval: '1s', scrape_timeout: '1s', evaluation_interval: '1s' },
      rule_files: [RULES],
      scrape_configs: [
        { job_name: 'keyward', static_configs: [{ targets: [`127.0.0.1:${scraped}`] }] },
      ],
    };
    // JSON is YAML.
    writeFileSync(join(folder, 'prometheus.yml'), JSON.stringify(config));
    const options = {
      'config.file': join(folder, 'prometheus.yml'),
      'storage.tsdb.path': join(folder, 'data'),
      'web.listen-address': `127.0.0.1:${port}`,
      'enable-feature': 'exemplar-storage',
    };
    const args = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
    const child = spawn(PROGRAM, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    return new Prometheus(child, port);
  }

  /** Asks its API, as soon as it answers. Throws Error with its words where it refuses. */
  async ask<T>(path: string, parameters: Readonly<Record<string, string>> = {}): Promise<T> {
    const url = `http://127.0.0.1:${this.#port}/api/v1/${path}?${new URLSearchParams(parameters)}`;
    const answer = await eventually(
      () => fetch(url),
      () => this.#output,
    );
    const { status, data, error } = (await answer.json()) as {
      readonly status: string;
      readonly data: T;
      readonly error?: string;
    };
    if (status !== 'success') throw new Error(error);
    return data;
  }

  /** Returns what an expression of the dashboard shows now, as a graph of the last minute. */
  async graph(expression: string): Promise<readonly Series[]> {
    const end = Date.now() / 1_000;
    const { result } = await this.ask<{ readonly result: readonly Series[] }>('query_range', {
      query: expression.replaceAll('$__rate_interval', '30s'),
      ...{ start: `${end - 60}`, end: `${end}`, step: '2' },
    });
    return result;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }
}
