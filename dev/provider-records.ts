/**
 * What the development provider remembers: sessions, codes and refresh tokens, in a file.
 *
 * So a sign-in outlasts a new start. Expired records are dropped at each write. Knows nothing of
 * what is in them but the ids by which they are looked for.
 */
import type { Adapter, AdapterFactory, AdapterPayload } from 'oidc-provider';
import { readJsonIfThere, writePrivateJson } from './files.ts';

interface Kept {
  readonly payload: AdapterPayload;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
}

/** Returns what oidc-provider makes an adapter of each of its models with. */
export function recordsIn(file: string): AdapterFactory {
  const records = new Map<string, Kept>(Object.entries(readJsonIfThere(file) ?? {}));
  return (model) => new Records(model, records, () => save(file, records));
}

function save(file: string, records: Map<string, Kept>): void {
  for (const [id, kept] of records) if (kept.expiresAt <= Date.now()) records.delete(id);
  writePrivateJson(file, Object.fromEntries(records));
}

class Records implements Adapter {
  readonly #model: string;
  readonly #records: Map<string, Kept>;
  readonly #save: () => void;

  constructor(model: string, records: Map<string, Kept>, save: () => void) {
    this.#model = model;
    this.#records = records;
    this.#save = save;
  }

  async upsert(id: string, payload: AdapterPayload, expiresIn: number): Promise<void> {
    this.#records.set(this.#idOf(id), { payload, expiresAt: Date.now() + expiresIn * 1000 });
    this.#save();
  }

  async find(id: string): Promise<AdapterPayload | undefined> {
    const kept = this.#records.get(this.#idOf(id));
    return kept !== undefined && kept.expiresAt > Date.now() ? kept.payload : undefined;
  }

  findByUserCode(userCode: string): Promise<AdapterPayload | undefined> {
    return this.#findBy((payload) => payload.userCode === userCode);
  }

  findByUid(uid: string): Promise<AdapterPayload | undefined> {
    return this.#findBy((payload) => payload.uid === uid);
  }

  async consume(id: string): Promise<void> {
    const kept = this.#records.get(this.#idOf(id));
    if (kept === undefined) return;
    const payload = { ...kept.payload, consumed: Math.floor(Date.now() / 1000) };
    this.#records.set(this.#idOf(id), { ...kept, payload });
    this.#save();
  }

  async destroy(id: string): Promise<void> {
    this.#records.delete(this.#idOf(id));
    this.#save();
  }

  async revokeByGrantId(grantId: string): Promise<void> {
    for (const [id, { payload }] of this.#records)
      if (payload.grantId === grantId) this.#records.delete(id);
    this.#save();
  }

  #idOf(id: string): string {
    return `${this.#model}/${id}`;
  }

  async #findBy(
    matches: (payload: AdapterPayload) => boolean,
  ): Promise<AdapterPayload | undefined> {
    const now = Date.now();
    for (const [id, { payload, expiresAt }] of this.#records)
      if (id.startsWith(this.#idOf('')) && expiresAt > now && matches(payload)) return payload;
    return undefined;
  }
}
