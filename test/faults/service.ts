/**
 * The service on a token that misbehaves: what the tests of HSM faults share.
 *
 * Owns what has to hold after every fault, whatever it was: the process lives, an honest call
 * succeeds, and the log holds neither PIN nor plaintext. Knows no fault.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Client, credentials } from '@grpc/grpc-js';
import type { KeywardClient } from 'keyward-client';
import {
  type Environment,
  eventually,
  newEnvironment,
  type Service,
  startService,
} from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { faultsFor, type Pkcs11Faults } from './pkcs11.ts';

export const PARENT = 'tenants/acme';
export const KEY = `${PARENT}/keys/k`;
/** What every test encrypts, and no log may hold. */
export const PLAINTEXT = Buffer.from('a plaintext that must be in no log');

/** See this file's first paragraph. */
export class FaultyService implements AsyncDisposable {
  readonly environment: Environment;
  readonly faults: Pkcs11Faults;
  readonly service: Service;
  readonly keyward: KeywardClient;
  /** Holds {@link PLAINTEXT}, sealed before anything went wrong. */
  ciphertext: Buffer = Buffer.alloc(0);
  readonly #agents: number;

  constructor(environment: Environment, faults: Pkcs11Faults, service: Service, agents: number) {
    this.environment = environment;
    this.faults = faults;
    this.service = service;
    this.keyward = service.client();
    this.#agents = agents;
  }

  encrypt(timeoutMs?: number) {
    return this.keyward.encrypt(
      { name: KEY, plaintext: PLAINTEXT },
      timeoutMs === undefined ? {} : { timeoutMs },
    );
  }

  decrypt(ciphertext: Buffer) {
    return this.keyward.decrypt({ parent: PARENT, ciphertext });
  }

  /** Waits until every agent is ready: none that is just starting will meet what is set next. */
  async settled(): Promise<readonly number[]> {
    return eventually(
      () => {
        const { agentPids, log } = this.service;
        const ready = agentPids.filter((pid) =>
          log.some((line) => line['pid'] === pid && line['msg'] === 'HSM agent is ready'),
        );
        assert.equal(ready.length, this.#agents);
        assert.equal(agentPids.length, this.#agents);
        return ready;
      },
      () => this.logText(),
    );
  }

  /** Agents that have loaded no key version yet. */
  async renewed(): Promise<void> {
    const before = await this.settled();
    for (const pid of before) process.kill(pid, 'SIGKILL');
    await eventually(() => assert.ok(!this.service.agentPids.some((pid) => before.includes(pid))));
    await this.settled();
  }

  /** What holds after every case. */
  async well(): Promise<void> {
    this.faults.set();
    const { ciphertext } = await eventually(
      () => this.encrypt(),
      () => this.logText(),
    );
    assert.deepEqual((await this.decrypt(ciphertext)).plaintext, PLAINTEXT);
    assert.equal(await Promise.race([this.service.ended, 'alive']), 'alive');
    this.assertDiscreet();
  }

  assertDiscreet(): void {
    assertNoSecret(this.logText(), this.environment);
  }

  logText(): string {
    return this.service.log.map((line) => JSON.stringify(line)).join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.service[Symbol.asyncDispose]();
    await this.environment[Symbol.asyncDispose]();
  }
}

/** Signed now and not again: faults are meant for what tests do. */
const CHECKPOINT_MS = 86_400_000;

/** A service with a key, over the module that misbehaves; well until told otherwise. */
export async function startFaultyService(
  options: { readonly agents?: number; readonly variables?: Readonly<Record<string, string>> } = {},
): Promise<FaultyService> {
  const { agents = 2, variables = {} } = options;
  const environment = await newEnvironment();
  const faults = faultsFor(join(environment.directory, 'faults'), environment.variables);
  const service = await startService(environment, {
    ...faults.variables,
    KEYWARD_HSM_AGENTS: String(agents),
    KEYWARD_AUDIT_CHECKPOINT_MS: String(CHECKPOINT_MS),
    ...variables,
  });
  const faulty = new FaultyService(environment, faults, service, agents);
  await faulty.keyward.createTenant({ tenantId: 'acme' });
  await faulty.keyward.createKey({ parent: PARENT, keyId: 'k' });
  await faulty.settled();
  faulty.ciphertext = (await faulty.encrypt()).ciphertext;
  await eventually(async () =>
    assert.ok((await sql(environment, 'SELECT FROM audit_checkpoints')).length > 0),
  );
  return faulty;
}

/** Fails if what was logged holds the environment's PIN or {@link PLAINTEXT}. */
export function assertNoSecret(text: string, environment: Environment): void {
  const pin = readFileSync(environment.token.pinFile, 'utf8').trim();
  for (const secret of [Buffer.from(pin), PLAINTEXT]) {
    for (const form of ['utf8', 'hex', 'base64'] as const) {
      assert.ok(!text.includes(secret.toString(form).replace(/=*$/, '')), 'a secret is in the log');
    }
  }
}

/** Whether the service has said last that it serves. */
export function isServing(service: Service): boolean {
  return (
    service.log.findLast(({ msg }) => msg === 'serving' || msg === 'not serving')?.['msg'] ===
    'serving'
  );
}

/** What grpc.health.v1 says, within a second. */
export async function healthOf(service: Service): Promise<'SERVING' | 'NOT_SERVING'> {
  const { address, ca, cert, key } = service.connectOptions();
  const toBuffer = (pem: string | Uint8Array = '') => Buffer.from(pem);
  const client = new Client(
    address,
    credentials.createSsl(toBuffer(ca), toBuffer(key), toBuffer(cert)),
  );
  try {
    return await new Promise((resolve, reject) => {
      client.makeUnaryRequest(
        '/grpc.health.v1.Health/Check',
        (request: Buffer) => request,
        (response: Buffer) => (response[1] === 1 ? 'SERVING' : 'NOT_SERVING'),
        Buffer.alloc(0),
        { deadline: Date.now() + 10_000 },
        (error, answer) => (error || answer === undefined ? reject(error) : resolve(answer)),
      );
    });
  } finally {
    client.close();
  }
}
