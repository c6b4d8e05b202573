/**
 * Does to a token's objects what somebody with the PIN can do: a program of its own, since it loads
 * the PKCS#11 module.
 *
 * `tamper.ts <module> <token label> <PIN file> <change as JSON>`, with the module's own
 * environment. A change is a role, the attributes that a new object of it has otherwise than ours
 * have, and whether ours goes. Knows no service.
 */
import { readFileSync } from 'node:fs';
import {
  type ITemplate,
  KeyGenMechanism,
  KeyType,
  MechanismEnum,
  Module,
  type SessionObject,
} from 'graphene-pk11';
import { searchTemplate, tokenObjectTemplate } from '../../src/hsm/agent/templates.ts';
import type { TokenObjectRole } from '../../src/hsm/token-profile.ts';

/** What is done to the token. */
export interface Change {
  readonly role: Exclude<TokenObjectRole, 'audit-signing'>;
  /** Our object of the role is destroyed first. */
  readonly replace: boolean;
  /** The new object gets a CKA_ID of its own rather than ours. */
  readonly otherId?: boolean;
  /** Attributes of the new object that differ. */
  readonly attributes?: Readonly<Record<string, boolean | number>>;
  /** The new object isn't generated but brought in from outside. */
  readonly imported?: boolean;
  /** No new object. */
  readonly only?: 'destroy';
}

const [library = '', label = '', pinFile = '', json = '{}'] = process.argv.slice(2);
const change = JSON.parse(json) as Change;
const CKF_RW_SESSION = 2;
const CKF_SERIAL_SESSION = 4;

const module = Module.load(library);
module.initialize();
const slots = module.getSlots(true);
const slot = Array.from({ length: slots.length }, (_, index) => slots.items(index)).find(
  (each) => each.getToken().label === label,
);
if (slot === undefined) throw new Error(`no token ${label}`);
const session = slot.open(CKF_SERIAL_SESSION | CKF_RW_SESSION);
session.login(readFileSync(pinFile, 'utf8').trim());

const found = session.find(searchTemplate(change.role));
const ours = Array.from({ length: found.length }, (_, index) => found.items(index)).find(
  (object: SessionObject) => String(object.get('label')).startsWith(`keyward ${change.role} `),
);
if (ours === undefined) throw new Error(`no ${change.role} key`);
const name = String(ours.get('label'));
const id = ours.get('id') as unknown as Buffer;
if (change.replace) ours.destroy();

if (change.only === undefined) {
  const template: ITemplate = {
    ...tokenObjectTemplate(change.role, change.otherId ? Buffer.alloc(16, 9) : id, name, {
      keyType: KeyType.AES,
      unsupported: [],
    }),
    ...change.attributes,
  };
  const { valueLen, ...rest } = template;
  if (change.imported) session.create({ ...rest, value: Buffer.alloc(Number(valueLen), 1) });
  else if (change.role === 'root') session.generateKey(KeyGenMechanism.AES, template);
  else session.generateKey(MechanismEnum.GENERIC_SECRET_KEY_GEN, template);
}
module.finalize();
