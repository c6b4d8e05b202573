/**
 * A well-formed request for any method, found out and not written down: fields are filled by their
 * names with what may be right, and what the service says is wrong is filled otherwise, until
 * nothing is.
 *
 * Asked by a caller who may do nothing, since requests are looked at before rights: nothing is done
 * on the way. A new method whose fields have known names needs nothing here. Knows field names, no
 * method.
 */
import assert from 'node:assert/strict';
import type { MessageTypeDefinition } from '@grpc/proto-loader';
import { type AccessRig, type Caller, RPCS, type Rpc } from '../access/access-rig.ts';

/** Nothing has this id. */
const NOBODYS_ID = '0190a0a0-0000-7000-8000-000000000000';

/**
 * The last parts of the names that requests are about; of things that there aren't, unless said
 * otherwise.
 */
export interface Names {
  readonly tenant: string;
  readonly key?: string;
  readonly dataKey?: string;
  readonly job?: string;
  readonly tokenKey?: string;
  readonly roleBinding?: string;
  readonly role?: string;
  readonly canary?: string;
  readonly suspension?: string;
}

/** What a field may be, by its name; the first that is well-formed is taken. */
function candidatesFor(names: Names): Readonly<Record<string, readonly unknown[]>> {
  const { tenant, key = 'k', dataKey = 'missing', job = NOBODYS_ID, tokenKey = NOBODYS_ID } = names;
  const { roleBinding = 'missing', role = 'missing' } = names;
  const { canary = 'missing', suspension = 'missing' } = names;
  const parent = `tenants/${tenant}`;
  const keyName = `${parent}/keys/${key}`;
  return {
    name: [
      keyName,
      `${keyName}/versions/1`,
      `${keyName}/dataKeys/${dataKey}`,
      `${parent}/rewrapJobs/${job}`,
      `${parent}/tokenKeys/${tokenKey}`,
      `${parent}/roleBindings/${roleBinding}`,
      `${parent}/roles/${role}`,
      `${parent}/canaries/${canary}`,
      `${parent}/suspensions/${suspension}`,
      `${parent}/approvalRules`,
      `${parent}/pendingOperations/${NOBODYS_ID}`,
      parent,
      `alertSilences/${NOBODYS_ID}`,
      `passkeys/${Buffer.alloc(32).toString('base64url')}`,
    ],
    parent: [keyName, parent],
    scope: [keyName],
    resource: [keyName],
    // So that what may be done is not done.
    etag: ['no-such-etag'],
    key: [{ name: keyName, etag: 'no-such-etag' }],
    tenant: [{ name: parent, etag: 'no-such-etag' }],
    approvalRules: [{ name: `${parent}/approvalRules`, etag: 'no-such-etag' }],
    updateMask: [{ paths: ['description'] }, { paths: ['quotas'] }],
    tenantId: ['made-by-test'],
    keyId: ['made-by-test'],
    roleId: ['made-by-test'],
    role: [{ permissions: ['keys.get'] }],
    roleBinding: [{ principal: 'spiffe://keyward.test/somebody', role: 'roles/keyViewer' }],
    alert: ['test-alert'],
    expireTime: [{ seconds: Math.floor(Date.now() / 1_000) + 3_600 }],
    permission: ['keys.get'],
    permissions: [['keys.get']],
    principal: ['spiffe://keyward.test/somebody'],
    // The first that a kind can be, in each list of kinds.
    kind: [1],
    caller: ['spiffe://keyward.test/suspect'],
    length: [32],
    credentialId: [Buffer.alloc(32)],
    clientDataJson: [Buffer.from('{}')],
    attestationObject: [Buffer.from('a0', 'hex')],
    assertion: [
      {
        credentialId: Buffer.alloc(32),
        clientDataJson: Buffer.from('{}'),
        authenticatorData: Buffer.alloc(37),
        signature: Buffer.alloc(64),
      },
    ],
    reason: ['because'],
    ciphertext: [Buffer.alloc(200)],
    note: [`keyward/other\n1\n${Buffer.alloc(32).toString('base64')}\n\n— somebody c2lnbmF0dXJl\n`],
    treeSize: [1],
    fromSize: [1],
    toSize: [1],
  };
}

interface Field {
  readonly name: string;
  readonly type: string;
  readonly typeName: string;
}

interface RequestType {
  readonly type: { readonly name: string; readonly field: readonly Field[] };
}

const requestTypeOf = ({ definition }: Rpc): RequestType['type'] =>
  (
    definition as unknown as {
      readonly requestType: MessageTypeDefinition<object, object> & RequestType;
    }
  ).requestType.type;

const isMessage = (value: unknown) =>
  typeof value === 'object' && !Array.isArray(value) && !Buffer.isBuffer(value);

/**
 * Which candidate each field takes, by methods: the same one, whatever the names' last parts are.
 */
const FOUND = new Map<string, Readonly<Record<string, number>>>();
/** What a well-formed request is answered by, where nothing else keeps it from that. */
const JUDGED = ['OK', 'PERMISSION_MISSING', 'RESOURCE_NOT_FOUND'];

/**
 * A well-formed request of that method about these things. Fails, naming the field, where none is
 * found.
 */
export async function wellFormed(
  rig: AccessRig,
  nobody: Caller,
  rpc: Rpc,
  names: Names,
): Promise<Record<string, unknown>> {
  const { field: fields } = requestTypeOf(rpc);
  const items = fields.find(({ name }) => name === 'requests');
  if (items !== undefined) return batchOf(rig, nobody, items, names);
  const candidates = candidatesFor(names);
  const known = FOUND.get(rpc.name);
  const tried: Record<string, number> = { ...known };
  for (;;) {
    const request = Object.fromEntries(
      fields.flatMap(({ name, type }) => {
        const wantsMessage = type === 'TYPE_MESSAGE';
        const fitting = candidates[name]?.filter((value) => isMessage(value) === wantsMessage);
        return fitting?.length ? [[name, fitting[tried[name] ?? 0]]] : [];
      }),
    );
    if (known !== undefined) return request;
    const { reason, message } = await rig.ask(nobody, rpc.name, request);
    if (JUDGED.includes(reason)) FOUND.set(rpc.name, tried);
    if (reason !== 'INVALID_FIELD') return request;
    const wrong = /^([a-z_]+):/
      .exec(message)?.[1]
      ?.replaceAll(/_(.)/g, (_, letter) => letter.toUpperCase());
    const next = (tried[wrong ?? ''] ?? 0) + 1;
    const isKnown = wrong !== undefined && next < (candidates[wrong]?.length ?? 0);
    assert.ok(isKnown, `${rpc.name} wants something of ${wrong} that isn't known here: ${message}`);
    tried[wrong] = next;
  }
}

/** A batch of one, whose item is a request of the method that takes such alone. */
async function batchOf(rig: AccessRig, nobody: Caller, { typeName }: Field, names: Names) {
  const alone = RPCS.find((each) => requestTypeOf(each).name === typeName.split('.').at(-1));
  assert.ok(alone, `no method takes a ${typeName}`);
  return {
    parent: `tenants/${names.tenant}`,
    requests: [await wellFormed(rig, nobody, alone, names)],
  };
}
