/**
 * Who could do what, and what there was, after an entry of the audit log: worked out from the
 * changes that a verified export has (docs/audit.md).
 *
 * Its invariant: nothing is guessed; what the entries can't tell is named. Knows the changes'
 * members and not what they mean to the service.
 */
import {
  type AuditExportReport,
  type VerifyAuditExportOptions,
  verifyAuditExport,
} from './verify.ts';

type Facts = Readonly<Record<string, unknown>>;

/** One thing, as its last change had left it. */
export interface AuditStateItem {
  /** Its full name. */
  readonly name: string;
  readonly tenantId?: string;
  /** What the change's `after` said (docs/audit.md). */
  readonly content: Facts;
  /** The entry of that change. */
  readonly leafIndex: number;
}

/** A key, with its versions. */
export interface AuditStateKey extends AuditStateItem {
  readonly versions: readonly ({ readonly version: number } & Facts)[];
}

/** What held right after an entry. */
export interface AuditState {
  /** The entry, and its time. */
  readonly at: number;
  readonly time: string;
  readonly tenants: readonly AuditStateItem[];
  readonly roleBindings: readonly AuditStateItem[];
  readonly roles: readonly AuditStateItem[];
  readonly keys: readonly AuditStateKey[];
  readonly tokenKeys: readonly AuditStateItem[];
  /** Undefined where nothing was said of it. */
  readonly maintenance: AuditStateItem | undefined;
  /** What can't be known from these entries, in words. */
  readonly unknown: readonly string[];
}

/** Of which export, and after which entry. */
export interface AuditStateOptions extends Omit<VerifyAuditExportOptions, 'onEntry'> {
  /** The entry's place in the log; the last one where it isn't given. */
  readonly at?: number;
}

/**
 * Verifies an export, and works out what held right after an entry. Rejects as {@link
 * verifyAuditExport}, and with a RangeError for an entry that isn't in the export.
 */
export async function auditStateAt(
  folder: string,
  { at, ...options }: AuditStateOptions,
): Promise<AuditState> {
  const fold = new Fold();
  const onEntry = (leafIndex: number, line: Buffer) => {
    if (at === undefined || leafIndex <= at) fold.add(leafIndex, line.toString());
  };
  const report = await verifyAuditExport(folder, { ...options, onEntry });
  requireIn(report, at);
  return fold.state(report.firstLeafIndex);
}

function requireIn({ firstLeafIndex, treeSize }: AuditExportReport, at: number | undefined): void {
  const index = at ?? treeSize - 1;
  if (index >= firstLeafIndex && index < treeSize) return;
  const has = treeSize > firstLeafIndex ? `${firstLeafIndex} to ${treeSize - 1}` : 'none';
  throw new RangeError(`entry ${index} is not in the export, which has ${has}`);
}

interface Entry {
  readonly time: string;
  readonly tenantId?: string;
  readonly resource?: string;
  readonly method?: string;
  readonly caller?: string;
  readonly binding?: string;
  readonly detail?: { readonly firstAdministrator?: unknown };
  readonly outcome: string;
  readonly change?: {
    readonly kind: string;
    readonly before?: Facts;
    readonly after?: Facts;
    readonly versions?: readonly { readonly version: number; readonly after?: Facts }[];
    readonly policyRevision?: string;
  };
}

type Item = { -readonly [Name in keyof AuditStateItem]: AuditStateItem[Name] };
type Items = Map<string, Item>;

/** In place of a binding's name, of who may make the first bindings by configuration. */
const BY_CONFIGURATION = 'KEYWARD_FIRST_ADMINISTRATOR';
/** The entry that names him at a start. */
const NAMED_FIRST = 'keyward.v1.Maintenance/NameFirstAdministrator';
/** Of each kind of gap so many are named. */
const NAMED = 20;
const KEY = /^tenants\/[^/]+\/keys\/[^/]+/;
const TENANT = /^tenants\/[^/]+/;

/** Goes through entries in their order. */
class Fold {
  readonly #kinds: Readonly<Record<string, Items>> = {
    tenant: new Map(),
    roleBinding: new Map(),
    role: new Map(),
    key: new Map(),
    tokenKey: new Map(),
    maintenance: new Map(),
  };
  readonly #versions = new Map<string, Map<number, Facts>>();
  readonly #policyRevisions = new Map<string, bigint>();
  readonly #gaps: string[] = [];
  #gapCount = 0;
  #earlier: { first: number; last: number } | undefined;
  #configured = new Map<string, number>();
  #at = 0;
  #time = '';

  add(leafIndex: number, line: string): void {
    this.#at = leafIndex;
    const entry = this.#parsed(leafIndex, line);
    if (entry === undefined) return;
    this.#time = entry.time;
    const { outcome, tenantId, change, binding, caller = '' } = entry;
    const named = entry.detail?.firstAdministrator;
    if (binding === BY_CONFIGURATION) this.#configure(caller, leafIndex);
    if (entry.method === NAMED_FIRST && typeof named === 'string')
      this.#configure(named, leafIndex);
    if (outcome === 'OK' && tenantId === undefined)
      this.#earlier = { first: this.#earlier?.first ?? leafIndex, last: leafIndex };
    if (change !== undefined && (outcome === 'OK' || outcome === 'BEGUN'))
      this.#apply(leafIndex, entry, change);
  }

  #parsed(leafIndex: number, line: string): Entry | undefined {
    try {
      return JSON.parse(line) as Entry;
    } catch {
      this.#gap(`entry ${leafIndex} is not JSON`);
      return undefined;
    }
  }

  #apply(leafIndex: number, entry: Entry, change: NonNullable<Entry['change']>): void {
    const { kind, before, after, policyRevision } = change;
    const items = this.#kinds[kind];
    if (items === undefined) return;
    const { resource = '', tenantId } = entry;
    const name = kind === 'key' ? (KEY.exec(resource)?.[0] ?? resource) : resource;
    if (policyRevision !== undefined) this.#countPolicy(leafIndex, name, policyRevision);
    const known = items.get(name);
    const was = known?.content['revision'];
    const said = before?.['revision'];
    if (said !== undefined && said !== was)
      this.#gap(
        `entry ${leafIndex} changes ${name} from revision ${said}, and the entries before leave ` +
          'it ' +
          (was === undefined ? 'unknown' : `at ${was}`),
      );
    if (after === undefined) items.delete(name);
    else
      items.set(name, {
        name,
        ...(tenantId === undefined ? {} : { tenantId }),
        content: { ...known?.content, ...after },
        leafIndex,
      });
    if (kind === 'key') this.#applyVersions(name, change);
    if (kind === 'tokenKey') this.#applyTokenKey(name, leafIndex, after);
    if (kind === 'tenant' && after?.['state'] === 'SHREDDED') this.#shred(name);
  }

  #applyVersions(name: string, { after, versions = [] }: NonNullable<Entry['change']>): void {
    const known = this.#versions.get(name) ?? new Map<number, Facts>();
    this.#versions.set(name, known);
    for (const each of versions) known.set(each.version, each.after ?? {});
    if (after?.['state'] === 'DESTROYED') destroyAll(known);
  }

  /** One that becomes current retires the one before; another may have been given up for it. */
  #applyTokenKey(name: string, leafIndex: number, after: Facts | undefined): void {
    const items = this.#kinds['tokenKey'] as Items;
    for (const item of items.values()) {
      const { state, role, objectId } = item.content;
      const isReplaced =
        after?.['state'] === 'CURRENT' &&
        item.name !== name &&
        state === 'CURRENT' &&
        role === after['role'] &&
        tenantOf(item.name) === tenantOf(name);
      const isGivenUp = objectId !== undefined && objectId === after?.['insteadOf'];
      if (!isReplaced && !isGivenUp) continue;
      item.content = { ...item.content, state: isReplaced ? 'RETIRED' : 'ABANDONED' };
      item.leafIndex = leafIndex;
    }
  }

  /** Nothing of it can be used, and it answers as if it had never been. */
  #shred(tenant: string): void {
    for (const kind of ['roleBinding', 'role'])
      for (const name of this.#kinds[kind]?.keys() ?? [])
        if (tenantOf(name) === tenant) this.#kinds[kind]?.delete(name);
    for (const item of this.#kinds['key']?.values() ?? []) {
      if (tenantOf(item.name) !== tenant) continue;
      item.content = { ...item.content, state: 'DESTROYED' };
      destroyAll(this.#versions.get(item.name) ?? new Map());
    }
  }

  #countPolicy(leafIndex: number, name: string, policyRevision: string): void {
    const tenant = tenantOf(name);
    const before = this.#policyRevisions.get(tenant) ?? 0n;
    const revision = BigInt(policyRevision);
    if (revision !== before + 1n)
      this.#gap(
        `entry ${leafIndex} makes revision ${revision} of the policy of ${tenant}, and the ` +
          `entries before end with ${before}: role bindings or roles may be missing, or be gone`,
      );
    this.#policyRevisions.set(tenant, revision);
  }

  #configure(caller: string, leafIndex: number): void {
    if (!this.#configured.has(caller)) this.#configured.set(caller, leafIndex);
  }

  #gap(what: string): void {
    this.#gapCount += 1;
    if (this.#gaps.length < NAMED) this.#gaps.push(what);
  }

  state(firstLeafIndex: number): AuditState {
    const all = (kind: string) =>
      [...(this.#kinds[kind]?.values() ?? [])].sort((a, b) => (a.name < b.name ? -1 : 1));
    const keys = all('key').map((key) => ({
      ...key,
      versions: [...(this.#versions.get(key.name) ?? [])]
        .sort(([a], [b]) => a - b)
        .map(([version, facts]) => ({ version, ...facts })),
    }));
    return {
      at: this.#at,
      time: this.#time,
      tenants: all('tenant'),
      roleBindings: all('roleBinding'),
      roles: all('role'),
      keys,
      tokenKeys: all('tokenKey'),
      maintenance: all('maintenance')[0],
      unknown: this.#unknown(firstLeafIndex),
    };
  }

  #unknown(firstLeafIndex: number): string[] {
    const unknown: string[] = [];
    if (firstLeafIndex > 0)
      unknown.push(
        `entries before ${firstLeafIndex} are not in the export: what was made in them is ` +
          'missing here unless it was changed since',
      );
    if (this.#earlier !== undefined) {
      const { first, last } = this.#earlier;
      unknown.push(
        `entries from ${first} up to ${last} were written by an earlier release, in which ` +
          'changes have no content',
      );
    }
    for (const [caller, leafIndex] of this.#configured)
      unknown.push(
        `${caller} could make role bindings as the first administrator, by a server's settings, ` +
          `from entry ${leafIndex} on; the log does not tell until when`,
      );
    const more = this.#gapCount - this.#gaps.length;
    return [...unknown, ...this.#gaps, ...(more > 0 ? [`and ${more} more gaps like these`] : [])];
  }
}

function destroyAll(versions: Map<number, Facts>): void {
  for (const [version, facts] of versions) versions.set(version, { ...facts, state: 'DESTROYED' });
}

function tenantOf(name: string): string {
  return TENANT.exec(name)?.[0] ?? name;
}
