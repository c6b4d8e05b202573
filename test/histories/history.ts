/**
 * One key's caller: makes calls about it one after another, at whichever replica, and holds every
 * answer against what the calls before allow.
 *
 * - A change that may have been made is asked for again, with its request id, until it is known.
 * - An answer that is none of those that the model allows is a violation, and ends the history.
 * - Failures that promise nothing (no database, no agent, no room) are no answers.
 */

import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { type Key, type KeywardClient, KeywardError } from 'keyward-client';
import type { Credentials } from '../../dev/certificates.ts';
import type { CallKind } from './plan.ts';
import { Register, type Span } from './register.ts';
import type { Replicas } from './replicas.ts';

export const TENANT = 'acme';
export const PARENT = `tenants/${TENANT}`;
/** Failures after which the same request may be made again, and nothing is known but that. */
const OPEN: readonly string[] = [
  'UNAVAILABLE',
  'DEADLINE_EXCEEDED',
  'CANCELLED',
  'RESOURCE_EXHAUSTED',
];
/** However slow the machine is. */
const PATIENCE_MS = 120_000;
/** Of a first try: some are over before they can be done. */
const SHORT_MS = [5, 20, 100, 1_000, 5_000, 5_000];
const LONG_MS = 10_000;
const PAUSE_MS = 50;

/** What was answered, or why not; and when, and where. */
interface Settled<Answer> extends Span {
  readonly replica: number;
  readonly answer?: Answer;
  readonly error?: KeywardError;
}

/** A change that was made, with what it was answered. */
interface Made {
  readonly send: (client: KeywardClient, timeoutMs: number) => Promise<unknown>;
  readonly answer: unknown;
  /** What it was about, for what replicas are told by a replay. */
  readonly about: 'key' | 'access' | 'nothing';
}

type KeyFacts = Pick<Key, 'state' | 'etag' | 'description'> & { readonly version: number };

/** A violation of what is promised, in words. */
export class Violation extends Error {}

/** Makes the calls about one key. */
export class KeyHistory {
  readonly name: string;
  /** How many changes were made, by method, as the audit log must have them. */
  readonly changes = new Map<string, number>();
  encrypted = 0;
  readonly #replicas: Replicas;
  readonly #principal: { readonly name: string; readonly credentials: Credentials };
  readonly #etags = new Set<string>();
  readonly #ciphertexts: Buffer[] = [];
  readonly #dataKeys = new Map<string, Buffer | undefined>();
  readonly #removed: string[] = [];
  readonly #made: Made[] = [];
  readonly #bound = new Register(false);
  #key: Register<KeyFacts> = new Register({
    state: 'ENABLED',
    etag: '',
    description: '',
    version: 0,
  });
  #binding: string | undefined;

  constructor(replicas: Replicas, keyId: string) {
    this.#replicas = replicas;
    this.name = `${PARENT}/keys/${keyId}`;
    const name = `spiffe://keyward.test/${keyId}`;
    const issued = { subject: keyId, usage: 'client', uris: [name] } as const;
    this.#principal = { name, credentials: replicas.environment.ca.issue(issued) };
  }

  async create(): Promise<void> {
    const request = {
      parent: PARENT,
      keyId: this.name.split('/').at(-1) ?? '',
      requestId: randomUUID(),
    };
    const made = await this.#change('CreateKey', 0, 5, 'key', (client, timeoutMs) =>
      client.createKey(request, { timeoutMs }),
    );
    this.#key = new Register(factsOf(this.#answered(made)));
    this.#newEtag(this.#key.now.etag);
  }

  /** Makes the next call. Throws {@link Violation}. */
  async call(kind: CallKind, replica: number, pick: number): Promise<void> {
    const { name } = this;
    const id = { requestId: randomUUID() };
    const { now } = this.#key;
    switch (kind) {
      case 'rotate':
        return this.#changeKey(
          'RotateKey',
          replica,
          pick,
          { version: now.version + 1 },
          (client, timeoutMs) => client.rotateKey({ name, ...id }, { timeoutMs }),
        );
      case 'disable':
        return this.#changeKey(
          'DisableKey',
          replica,
          pick,
          { state: 'DISABLED' },
          (client, timeoutMs) => client.disableKey({ name, ...id }, { timeoutMs }),
        );
      case 'enable':
        return this.#changeKey(
          'EnableKey',
          replica,
          pick,
          { state: 'ENABLED' },
          (client, timeoutMs) => client.enableKey({ name, ...id }, { timeoutMs }),
        );
      case 'describe': {
        const key = { name, description: `d${pick}`, etag: now.etag };
        return this.#changeKey(
          'UpdateKey',
          replica,
          pick,
          { description: key.description },
          (client, timeoutMs) =>
            client.updateKey({ key, updateMask: ['description'], ...id }, { timeoutMs }),
        );
      }
      case 'describeStale':
        return this.#describeStale(replica, pick);
      case 'encrypt':
        return this.#encrypt(replica);
      case 'decrypt':
        return this.#decrypt(replica, pick);
      case 'get':
        return this.#get(replica);
      case 'addDataKey':
        return this.#addDataKey(replica, pick);
      case 'openDataKey':
        return this.#openDataKey(replica, pick);
      case 'removeDataKey':
        return this.#removeDataKey(replica, pick);
      case 'bind':
        return this.#bind(replica, pick);
      case 'unbind':
        return this.#unbind(replica, pick);
      case 'use':
        return this.#use(replica);
      case 'repeat':
        return this.#repeat(replica, pick);
    }
  }

  async #changeKey(
    method: string,
    replica: number,
    pick: number,
    expected: Partial<KeyFacts>,
    send: (client: KeywardClient, timeoutMs: number) => Promise<Key>,
  ): Promise<void> {
    const made = await this.#change(method, replica, pick, 'key', send);
    const before = this.#key.now;
    const facts = factsOf(this.#answered(made));
    const same = { ...before, ...expected };
    this.#require(
      isDeepStrictEqual({ ...facts, etag: '' }, { ...same, etag: '' }),
      method,
      facts,
      same,
    );
    // What is set to what it was stays as it was.
    if (isDeepStrictEqual({ ...same, etag: '' }, { ...before, etag: '' }) && method !== 'UpdateKey')
      this.#require(facts.etag === before.etag, `${method}, which changes nothing`, facts, before);
    else this.#newEtag(facts.etag);
    this.#key.change(facts, made, made.replica);
  }

  async #describeStale(replica: number, pick: number): Promise<void> {
    const stale = [...this.#etags].filter((etag) => etag !== this.#key.now.etag);
    const etag = stale[pick % stale.length];
    if (etag === undefined) return;
    const key = { name: this.name, description: 'never', etag };
    const { error, answer } = await this.#settle(replica, pick, (client, timeoutMs) =>
      client.updateKey(
        { key, updateMask: ['description'], requestId: randomUUID() },
        { timeoutMs },
      ),
    );
    this.#require(
      error?.reason === 'ETAG_MISMATCH',
      'an update with an etag of before',
      answer,
      error,
    );
  }

  async #encrypt(replica: number): Promise<void> {
    const once = await this.#once(replica, (client) =>
      client.encrypt({ name: this.name, plaintext: Buffer.from(this.name) }),
    );
    if (once.answer !== undefined) {
      this.encrypted += 1;
      this.#ciphertexts.push(once.answer.ciphertext);
    }
    const version = versionIn(once.answer?.keyVersion);
    this.#requireSeen(once, 'Encrypt', (key) => key.version === version);
  }

  async #decrypt(replica: number, pick: number): Promise<void> {
    const ciphertext = this.#ciphertexts[pick % this.#ciphertexts.length];
    if (ciphertext === undefined) return;
    const once = await this.#once(replica, (client) =>
      client.decrypt({ parent: PARENT, ciphertext }),
    );
    const { answer } = once;
    if (answer !== undefined)
      this.#require(
        answer.plaintext.toString() === this.name,
        'Decrypt',
        answer.plaintext,
        this.name,
      );
    this.#requireSeen(once, 'Decrypt', () => true);
  }

  async #get(replica: number): Promise<void> {
    const once = await this.#once(replica, (client) => client.getKey({ name: this.name }));
    if (once.error !== undefined) throw this.#violation('GetKey', once.error, 'the key');
    if (once.answer === undefined) return;
    const facts = factsOf(once.answer);
    const visible = this.#key.visible(once, once.replica);
    this.#require(
      visible.some((each) => isDeepStrictEqual(each, facts)),
      'GetKey',
      facts,
      visible,
    );
  }

  async #addDataKey(replica: number, pick: number): Promise<void> {
    const dataKeyId = `dk-${randomUUID().slice(0, 8)}`;
    const request = {
      parent: this.name,
      dataKeyId,
      returnPlaintext: true,
      requestId: randomUUID(),
    };
    const { began, ...settled } = await this.#settle(replica, pick, (client, timeoutMs) =>
      client.createDataKey(request, { timeoutMs }),
    );
    const { error, answer } = settled;
    const isMade = answer !== undefined || error?.metadata.has('made') === true;
    if (isMade) {
      this.#count('CreateDataKey');
      this.#dataKeys.set(dataKeyId, answer?.plaintext);
    }
    if (answer === undefined) {
      this.#requireSeen({ ...settled, began }, 'CreateDataKey', () => true);
      return;
    }
    const { version } = this.#key.now;
    this.#require(
      versionIn(answer.dataKey.keyVersion) === version,
      'CreateDataKey',
      answer,
      version,
    );
    this.#requireSeen({ ...settled, began }, 'CreateDataKey', () => true);
  }

  async #openDataKey(replica: number, pick: number): Promise<void> {
    const all = [...this.#dataKeys.keys(), ...this.#removed];
    const id = all[pick % all.length];
    if (id === undefined) return;
    const once = await this.#once(replica, (client) =>
      client.getDataKey({ name: `${this.name}/dataKeys/${id}` }),
    );
    if (once.error?.reason === 'RESOURCE_NOT_FOUND') {
      this.#require(this.#removed.includes(id), 'GetDataKey', once.error, `${id} is there`);
      return;
    }
    this.#requireSeen(once, 'GetDataKey', () => true);
    if (once.answer === undefined) return;
    this.#require(!this.#removed.includes(id), 'GetDataKey', id, 'it was deleted');
    const { plaintext } = once.answer;
    const expected = this.#dataKeys.get(id) ?? plaintext;
    this.#require(expected.equals(plaintext), 'GetDataKey', plaintext, expected);
    this.#dataKeys.set(id, plaintext);
  }

  async #removeDataKey(replica: number, pick: number): Promise<void> {
    const all = [...this.#dataKeys.keys()];
    const id = all[pick % all.length];
    if (id === undefined) return;
    const request = { name: `${this.name}/dataKeys/${id}`, requestId: randomUUID() };
    await this.#change('DeleteDataKey', replica, pick, 'nothing', (client, timeoutMs) =>
      client.deleteDataKey(request, { timeoutMs }),
    );
    this.#dataKeys.delete(id);
    this.#removed.push(id);
  }

  async #bind(replica: number, pick: number): Promise<void> {
    if (this.#binding !== undefined) return;
    const roleBinding = {
      principal: this.#principal.name,
      role: 'roles/keyViewer',
      keyPattern: this.name.split('/').at(-1) ?? '',
    };
    const request = { parent: PARENT, roleBinding, requestId: randomUUID() };
    const made = await this.#change(
      'CreateRoleBinding',
      replica,
      pick,
      'access',
      (client, timeoutMs) => client.createRoleBinding(request, { timeoutMs }),
    );
    this.#binding = this.#answered(made).name;
    this.#bound.change(true, made, made.replica);
  }

  async #unbind(replica: number, pick: number): Promise<void> {
    if (this.#binding === undefined) return;
    const request = { name: this.#binding, requestId: randomUUID() };
    const made = await this.#change(
      'DeleteRoleBinding',
      replica,
      pick,
      'access',
      (client, timeoutMs) => client.deleteRoleBinding(request, { timeoutMs }),
    );
    this.#binding = undefined;
    this.#bound.change(false, made, made.replica);
  }

  /** A call of somebody who has no right but by the binding. */
  async #use(replica: number): Promise<void> {
    const once = await this.#once(
      replica,
      (client) => client.getKey({ name: this.name }),
      this.#principal,
    );
    if (once.answer === undefined && once.error === undefined) return;
    const visible = this.#bound.visible(once, once.replica);
    const isAllowed = once.answer !== undefined;
    this.#require(visible.includes(isAllowed), 'a call by a role binding', isAllowed, visible);
  }

  /** A change that was made is asked for again: it is answered as then, and made no second time. */
  async #repeat(replica: number, pick: number): Promise<void> {
    const made = this.#made[pick % this.#made.length];
    if (made === undefined) return;
    const { answer, ...settled } = await this.#settle(replica, pick, made.send);
    this.#require(
      isDeepStrictEqual(answer, made.answer),
      'a request that came again',
      answer ?? settled.error,
      made.answer,
    );
    if (made.about === 'key') this.#key.told(settled.replica, settled.ended);
    if (made.about === 'access') this.#bound.told(settled.replica, settled.ended);
  }

  /** Makes a change, whatever it takes. */
  async #change<Answer>(
    method: string,
    replica: number,
    pick: number,
    about: Made['about'],
    send: (client: KeywardClient, timeoutMs: number) => Promise<Answer>,
  ): Promise<Settled<Answer>> {
    const settled = await this.#settle(replica, pick, send);
    if (settled.error !== undefined) throw this.#violation(method, settled.error, 'an answer');
    this.#count(method);
    this.#made.push({ send, answer: settled.answer, about });
    return settled;
  }

  /** Asks until there is an answer or a failure that says something. */
  async #settle<Answer>(
    replica: number,
    pick: number,
    send: (client: KeywardClient, timeoutMs: number) => Promise<Answer>,
  ): Promise<Settled<Answer>> {
    const began = performance.now();
    for (let attempt = 0; performance.now() - began < PATIENCE_MS; attempt += 1) {
      const at = (replica + attempt) % this.#replicas.count;
      const timeoutMs = attempt === 0 ? (SHORT_MS[pick % SHORT_MS.length] ?? LONG_MS) : LONG_MS;
      const once = await this.#once(at, (client) => send(client, timeoutMs));
      if (once.isAnswered) return { ...once, began };
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    throw this.#violation('a change', `nothing for ${PATIENCE_MS} ms`, 'an answer');
  }

  /** Asks once; what says nothing leaves neither an answer nor an error. */
  async #once<Answer>(
    replica: number,
    send: (client: KeywardClient) => Promise<Answer>,
    as?: { readonly name: string; readonly credentials: Credentials },
  ): Promise<Settled<Answer> & { readonly isAnswered: boolean }> {
    const began = performance.now();
    const span = () => ({ began, ended: performance.now(), replica });
    try {
      const answer = await send(this.#replicas.client(replica, as));
      return { answer, ...span(), isAnswered: true };
    } catch (error) {
      if (!(error instanceof KeywardError)) throw error;
      if (error.code === 'INTERNAL' || error.code === 'DATA_LOSS' || error.code === 'UNKNOWN')
        throw this.#violation('a call', error, 'no such failure');
      const isOpen = OPEN.includes(error.code) || error.reason === 'CONFLICT';
      return { ...(isOpen ? {} : { error }), ...span(), isAnswered: !isOpen };
    }
  }

  /** An answer, or that the key is disabled, is one that this replica may give at that time. */
  #requireSeen(settled: Settled<unknown>, what: string, fits: (key: KeyFacts) => boolean): void {
    const { answer, error, replica } = settled;
    if (answer === undefined && error === undefined) return;
    const visible = this.#key.visible(settled, replica);
    const isEnabled = answer !== undefined;
    if (!isEnabled)
      this.#require(error?.reason === 'KEY_NOT_ENABLED', what, error, 'KEY_NOT_ENABLED');
    const isFit = visible.some(
      (key) => (key.state === 'ENABLED') === isEnabled && (!isEnabled || fits(key)),
    );
    this.#require(isFit, what, answer ?? error, visible);
  }

  #newEtag(etag: string): void {
    this.#require(!this.#etags.has(etag), 'an etag', etag, 'one that never was');
    this.#etags.add(etag);
  }

  #answered<Answer>({ answer }: Settled<Answer>): Answer {
    if (answer === undefined) throw new Error('there is no answer');
    return answer;
  }

  #count(method: string): void {
    this.changes.set(method, (this.changes.get(method) ?? 0) + 1);
  }

  #require(isRight: boolean, what: string, actual: unknown, expected: unknown): void {
    if (!isRight) throw this.#violation(what, actual, expected);
  }

  #violation(what: string, actual: unknown, expected: unknown): Violation {
    const text = (value: unknown) =>
      value instanceof Error ? String(value) : JSON.stringify(value);
    return new Violation(`${this.name}: ${what}: ${text(actual)}; expected: ${text(expected)}`);
  }
}

function factsOf({ state, etag, description, primary }: Key): KeyFacts {
  return { state, etag, description, version: versionIn(primary?.name) };
}

function versionIn(name = ''): number {
  return Number(name.split('/versions/')[1] ?? 0);
}
