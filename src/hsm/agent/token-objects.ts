/**
 * The environment's objects in the token: finding them, verifying what they are, and, by explicit command, making them.
 *
 * Invariants: nothing is created because something was not found, except by `createMissing`, which only an operator's
 * command reaches; two objects with one CKA_ID or one label, an object of another environment, and an object of another
 * kind, length or with a right too many are refused. Knows nothing of key versions.
 */
import { type Key, KeyGenMechanism, MechanismEnum, type Session, type SessionObject } from 'graphene-pk11';
import { type AnyId, type EnvironmentId, idFromBytes, idToBytes, newId, UUID_BYTES } from '../../ids.ts';
import {
  type ObjectCondition,
  type PostureFinding,
  type PostureState,
  TOKEN_OBJECT_ROLES,
  type TokenObject,
  type TokenObjectRole,
  type TokenPosture,
  type TokenProfile,
} from '../token-profile.ts';
import { AgentFailure, returnValueOf } from './failure.ts';
import { auditPublicTemplate, requiredAttributes, searchTemplate, tokenObjectTemplate } from './templates.ts';

const LABEL_PREFIX = 'keyward';
const labelOf = (role: TokenObjectRole, environment: EnvironmentId) =>
  `${LABEL_PREFIX} ${role} ${environment}`;

/** Whether what a token says of an attribute can't be told from its not knowing it. */
const UNKNOWN_ATTRIBUTE = /^CKR_ATTRIBUTE_(TYPE_INVALID|SENSITIVE)$/;

/** A token object and its handle in this session. */
export interface FoundObject extends TokenObject {
  readonly handle: Key;
}

/** The given objects, each found exactly once and labelled with this environment. Throws `refused`. */
export function findObjects(
  session: Session,
  environment: EnvironmentId,
  objects: readonly TokenObject[],
): FoundObject[] {
  refuseForeignObjects(session, environment);
  refuseUnknownObjects(session, environment, objects);
  return objects.map((object) => {
    const found = collect(session, object.role, idToBytes(object.objectId));
    const [handle] = found;
    if (handle === undefined) {
      throw new AgentFailure('refused', `the token has no ${object.role} key ${object.objectId}`);
    }
    if (found.length > 1) {
      throw new AgentFailure(
        'refused',
        `the token has ${found.length} objects with the id ${object.objectId}`,
      );
    }
    if (labelled(handle) !== labelOf(object.role, environment)) {
      throw new AgentFailure(
        'refused',
        `the ${object.role} key ${object.objectId} belongs to another environment`,
      );
    }
    return { ...object, handle: handle.toType<Key>() };
  });
}

/** The environment's objects of every role, those that were missing newly made. For an operator's command only. */
export function createMissing(
  session: Session,
  environment: EnvironmentId,
  profile: TokenProfile,
): TokenObject[] {
  refuseForeignObjects(session, environment);
  return TOKEN_OBJECT_ROLES.map((role) => {
    const label = labelOf(role, environment);
    const existing = collect(session, role).filter((object) => labelled(object) === label);
    const [object] = existing;
    if (existing.length > 1) {
      throw new AgentFailure('refused', `the token has ${existing.length} objects labelled ${label}`);
    }
    const objectId = object ? idOf(object) : create(session, role, label, profile);
    return { role, objectId };
  });
}

/** An object of the environment, however it was found. */
export interface SurveyedObject extends TokenObject {
  readonly condition: ObjectCondition;
  /** Where exactly one has the id. */
  readonly handle?: Key;
}

/** The given objects as they are; and, by id and label, what looks like ours and isn't among them. Refuses nothing. */
export function survey(
  session: Session,
  environment: EnvironmentId,
  objects: readonly TokenObject[],
): { readonly objects: SurveyedObject[]; readonly unrecorded: TokenPosture['unrecorded'] } {
  const known = new Set<string>(objects.map(({ objectId }) => objectId));
  const ours = (['root', 'audit-signing'] as const)
    .flatMap((role) => collect(session, role))
    .filter((object) => labelled(object).startsWith(`${LABEL_PREFIX} `));
  return {
    objects: objects.map((object) => {
      const [found, ...others] = collect(session, object.role, idToBytes(object.objectId));
      if (found === undefined) return { ...object, condition: 'missing' };
      if (others.length > 0) return { ...object, condition: 'duplicated' };
      const condition = labelled(found) === labelOf(object.role, environment) ? 'found' : 'mislabelled';
      return { ...object, condition, handle: found.toType<Key>() };
    }),
    unrecorded: ours
      .map((object) => ({ objectId: idInWords(object), label: labelled(object) }))
      .filter(({ objectId }) => !known.has(objectId)),
  };
}

/** Every required attribute of every object. */
export function inspect(
  objects: readonly FoundObject[],
  profile: Pick<TokenProfile, 'unsupported'>,
): PostureFinding[] {
  return objects.flatMap(({ objectId, role, handle }) =>
    requiredAttributes(role).map(([attribute, required]) => ({
      objectId,
      role,
      attribute,
      state: profile.unsupported.includes(attribute) ? 'unsupported' : stateOf(handle, attribute, required),
    })),
  );
}

/** Throws `refused` when a finding is violated, or unsupported without a waiver; names all that are. */
export function judge(findings: readonly PostureFinding[], waivers: readonly string[]): void {
  const bad = findings.filter(
    ({ state, attribute }) =>
      state === 'violated' || (state === 'unsupported' && !waivers.includes(attribute)),
  );
  if (bad.length === 0) return;
  const list = bad.map(
    ({ role, objectId, attribute, state }) => `${role} ${objectId} ${attribute}: ${state}`,
  );
  throw new AgentFailure('refused', `the token's objects are not what they must be: ${list.join('; ')}`);
}

function stateOf(object: SessionObject, attribute: string, required: boolean | number): PostureState {
  try {
    return object.get(attribute) === required ? 'enforced' : 'violated';
  } catch (error) {
    if (UNKNOWN_ATTRIBUTE.test(returnValueOf(error) ?? '')) return 'unsupported';
    throw error;
  }
}

function create(session: Session, role: TokenObjectRole, label: string, profile: TokenProfile): AnyId {
  const objectId = newId();
  const id = idToBytes(objectId);
  const template = tokenObjectTemplate(role, id, label, profile);
  if (role === 'audit-signing') {
    session.generateKeyPair(KeyGenMechanism.EC, auditPublicTemplate(id, label), template);
  } else {
    session.generateKey(
      role === 'root' ? KeyGenMechanism.AES : MechanismEnum.GENERIC_SECRET_KEY_GEN,
      template,
    );
  }
  return objectId;
}

/** Two environments in one token would end with one destroying what the other needs. */
function refuseForeignObjects(session: Session, environment: EnvironmentId): void {
  for (const role of ['root', 'audit-signing'] as const) {
    const foreign = collect(session, role)
      .map(labelled)
      .find((label) => label.startsWith(`${LABEL_PREFIX} `) && !label.endsWith(environment));
    if (foreign !== undefined) {
      throw new AgentFailure(
        'refused',
        `the token holds "${foreign}", of another environment than ${environment}`,
      );
    }
  }
}

/** An object that bears our label and isn't one of those that are recorded: whoever looks by label may take it for ours. */
function refuseUnknownObjects(
  session: Session,
  environment: EnvironmentId,
  objects: readonly TokenObject[],
): void {
  for (const role of TOKEN_OBJECT_ROLES) {
    const label = labelOf(role, environment);
    const found = collect(session, role).filter((object) => labelled(object) === label);
    const ids = new Set(found.map(idOf));
    if (ids.size > objects.filter((object) => object.role === role).length) {
      throw new AgentFailure('refused', `the token has ${found.length} objects labelled ${label}`);
    }
  }
}

function collect(session: Session, role: TokenObjectRole, id?: Buffer): SessionObject[] {
  const found = session.find(searchTemplate(role, id));
  return Array.from({ length: found.length }, (_, index) => found.items(index));
}

function labelled(object: SessionObject): string {
  return String(object.get('label'));
}

/** A UUID's text where it is one, else hexadecimal digits. */
function idInWords(object: SessionObject): string {
  const id: unknown = object.get('id');
  if (!Buffer.isBuffer(id)) return '';
  return id.length === UUID_BYTES ? idFromBytes(id) : id.toString('hex');
}

function idOf(object: SessionObject): AnyId {
  const id: unknown = object.get('id');
  if (!Buffer.isBuffer(id) || id.length !== 16) {
    throw new AgentFailure('refused', `the object labelled ${labelled(object)} has no UUID for its id`);
  }
  return idFromBytes(id);
}
