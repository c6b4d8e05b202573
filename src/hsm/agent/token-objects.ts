/**
 * The environment's objects in the token: finding them, verifying what they are, and, by explicit
 * command, making them.
 *
 * Invariants: nothing is created because something was not found, except by `createMissing`, which
 * only an operator's command reaches; two objects with one CKA_ID or one label, an object of
 * another environment, and an object of another kind, length or with a right too many are refused.
 * What is destroyed was looked for first. Knows nothing of key versions.
 */
import {
  type Key,
  KeyGenMechanism,
  MechanismEnum,
  type Session,
  type SessionObject,
} from 'graphene-pk11';
import {
  type AnyId,
  type EnvironmentId,
  idFromBytes,
  idToBytes,
  newId,
  UUID_BYTES,
} from '../../ids.ts';
import {
  type HeldObjects,
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
import { TOKEN } from './given.ts';
import {
  auditPublicTemplate,
  requiredAttributes,
  searchTemplate,
  tokenObjectTemplate,
} from './templates.ts';

const LABEL_PREFIX = 'keyward';
/** The label of an environment's object of a role, or of a checkpoint that the token keeps. */
export const labelOf = (role: TokenObjectRole | 'checkpoint', environment: EnvironmentId) =>
  `${LABEL_PREFIX} ${role} ${environment}`;

/** Whether what a token says of an attribute can't be told from its not knowing it. */
const UNKNOWN_ATTRIBUTE = /^CKR_ATTRIBUTE_(TYPE_INVALID|SENSITIVE)$/;

/** A token object and its handle in this session. */
export interface FoundObject extends TokenObject {
  readonly handle: Key;
}

/** Which environment's objects, and how the token is spoken to. */
interface Measure {
  readonly environmentId: EnvironmentId;
  readonly profile: Pick<TokenProfile, 'unsupported'>;
}

/** What of an environment's objects can be used. */
export interface TakenObjects extends HeldObjects {
  readonly objects: readonly FoundObject[];
  /** Of those. */
  readonly findings: readonly PostureFinding[];
}

/**
 * Those of the given objects that can be used. Throws `refused` where one can't that must be there.
 */
export function takeObjects(
  session: Session,
  measure: Measure,
  recorded: readonly TokenObject[],
): TakenObjects {
  const objects: FoundObject[] = [];
  const findings: PostureFinding[] = [];
  const problems: string[] = [];
  // Of keys that were destroyed there are ever more, and looking for each takes 100 µs (SoftHSM).
  const present = idsIn(session);
  for (const object of recorded) {
    if (object.presence === 'possible') continue;
    if (object.presence === 'gone' && !present.has(object.objectId)) continue;
    const looked = lookFor(session, measure, object);
    if ('handle' in looked) {
      objects.push(looked);
      findings.push(...inspect([looked], measure.profile));
    } else if (object.presence === undefined) throw new AgentFailure('refused', looked.objection);
    else if (!looked.absent) problems.push(looked.objection);
  }
  return { objects, findings, problems, held: objects.map(({ objectId }) => objectId) };
}

/**
 * As {@link takeObjects}. Throws `refused` also for a token with another environment's objects, or
 * with ones of this that nobody has recorded.
 */
export function takeAllObjects(
  session: Session,
  measure: Measure,
  recorded: readonly TokenObject[],
): TakenObjects {
  refuseForeignObjects(session, measure.environmentId);
  // What is missing is named first: another database's token has unknown objects too.
  const taken = takeObjects(session, measure, recorded);
  refuseUnknownObjects(session, measure.environmentId, recorded);
  return taken;
}

/** The object as it can be used, or why it can't. */
function lookFor(
  session: Session,
  { environmentId, profile }: Measure,
  object: TokenObject,
): FoundObject | { readonly objection: string; readonly absent?: true } {
  const { role, objectId, presence } = object;
  const [found, ...others] = collect(session, role, idToBytes(objectId));
  if (found === undefined)
    return { objection: `the token has no ${role} key ${objectId}`, absent: true };
  if (presence === 'gone')
    return { objection: `the ${role} key ${objectId} was destroyed and is in the token again` };
  if (others.length > 0)
    return { objection: `the token has ${others.length + 1} objects with the id ${objectId}` };
  if (labelled(found) !== labelOf(role, environmentId))
    return { objection: `the ${role} key ${objectId} belongs to another environment` };
  const usable = { ...object, handle: found.toType<Key>() };
  const objection = objectionTo(inspect([usable], profile));
  return objection === undefined ? usable : { objection };
}

/**
 * Makes one object, and looks at it. Throws `refused` when the id is taken, or the object isn't
 * what it must be.
 */
export function createObject(
  session: Session,
  { environmentId, profile }: Measure & { readonly profile: TokenProfile },
  object: TokenObject,
): void {
  const { role, objectId } = object;
  refuseForeignObjects(session, environmentId);
  if (collect(session, role, idToBytes(objectId)).length > 0)
    throw new AgentFailure('refused', `the token has an object with the id ${objectId}`);
  create(session, role, { label: labelOf(role, environmentId), objectId }, profile);
  takeObjects(session, { environmentId, profile }, [object]);
}

/**
 * Destroys objects, and looks whether they are gone; returns how many were there. Throws `refused`
 * for others' objects.
 */
export function destroyObjects(
  session: Session,
  environment: EnvironmentId,
  objects: readonly TokenObject[],
): number {
  refuseForeignObjects(session, environment);
  const found = objects.flatMap(({ role, objectId }) =>
    collect(session, role, idToBytes(objectId)),
  );
  const strange = found.find((object) => !labelled(object).endsWith(` ${environment}`));
  if (strange !== undefined)
    throw new AgentFailure(
      'refused',
      `cannot destroy the objects: "${labelled(strange)}" has one of their ids and belongs to another environment`,
    );
  for (const object of found) object.destroy();
  const left = objects.filter(
    ({ role, objectId }) => collect(session, role, idToBytes(objectId)).length > 0,
  );
  if (left.length > 0)
    throw new AgentFailure(
      'refused',
      `cannot destroy the objects: the token still has ${left.map(({ objectId }) => objectId).join(', ')}`,
    );
  return found.length;
}

/**
 * The environment's objects of every role, those that were missing newly made. For an operator's
 * command only.
 */
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
      throw new AgentFailure(
        'refused',
        `the token has ${existing.length} objects labelled ${label}`,
      );
    }
    if (object !== undefined) return { role, objectId: idOf(object) };
    const objectId = newId();
    create(session, role, { label, objectId }, profile);
    return { role, objectId };
  });
}

/** An object of the environment, however it was found. */
export interface SurveyedObject extends TokenObject {
  readonly condition: ObjectCondition;
  /** Where exactly one has the id. */
  readonly handle?: Key;
}

/**
 * The given objects as they are; and, by id and label, what looks like ours and isn't among them.
 * Refuses nothing.
 */
export function survey(
  session: Session,
  environment: EnvironmentId,
  objects: readonly TokenObject[],
): { readonly objects: SurveyedObject[]; readonly unrecorded: TokenPosture['unrecorded'] } {
  const known = new Set<string>(objects.map(({ objectId }) => objectId));
  const ours = (['root', 'audit-signing'] as const)
    .flatMap((role) => collect(session, role))
    .filter((object) => labelled(object).startsWith(`${LABEL_PREFIX} `));
  const present = idsIn(session);
  return {
    objects: objects.map((object) => {
      if (!present.has(object.objectId)) return { ...object, condition: 'missing' };
      const [found, ...others] = collect(session, object.role, idToBytes(object.objectId));
      if (found === undefined) return { ...object, condition: 'missing' };
      if (others.length > 0) return { ...object, condition: 'duplicated' };
      const condition =
        labelled(found) === labelOf(object.role, environment) ? 'found' : 'mislabelled';
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
      state: profile.unsupported.includes(attribute)
        ? 'unsupported'
        : stateOf(handle, attribute, required),
    })),
  );
}

/** What is violated, or unsupported without a waiver, in words; undefined when nothing is. */
function objectionTo(findings: readonly PostureFinding[]): string | undefined {
  const bad = findings.filter(
    ({ state, attribute }) =>
      state === 'violated' || (state === 'unsupported' && !TOKEN.waivers.includes(attribute)),
  );
  if (bad.length === 0) return undefined;
  const list = bad.map(
    ({ role, objectId, attribute, state }) => `${role} ${objectId} ${attribute}: ${state}`,
  );
  const unsupported = new Set(
    bad.filter(({ state }) => state === 'unsupported').map(({ attribute }) => attribute),
  );
  const waiver =
    unsupported.size === bad.length
      ? `; to do without what is unsupported, name it in KEYWARD_HSM_WAIVERS (of the next token, ` +
        `KEYWARD_NEXT_HSM_WAIVERS): ${[...unsupported].join(',')}`
      : '';
  return `the token's objects do not have the required attributes: ${list.join('; ')}${waiver}`;
}

function stateOf(
  object: SessionObject,
  attribute: string,
  required: boolean | number,
): PostureState {
  try {
    return object.get(attribute) === required ? 'enforced' : 'violated';
  } catch (error) {
    if (UNKNOWN_ATTRIBUTE.test(returnValueOf(error) ?? '')) return 'unsupported';
    throw error;
  }
}

function create(
  session: Session,
  role: TokenObjectRole,
  { label, objectId }: { readonly label: string; readonly objectId: AnyId },
  profile: TokenProfile,
): void {
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
}

/** Two environments in one token would end with one destroying what the other needs. */
export function refuseForeignObjects(session: Session, environment: EnvironmentId): void {
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

/**
 * An object that bears our label and isn't one of those that are recorded: whoever looks by label
 * may take it for ours.
 */
function refuseUnknownObjects(
  session: Session,
  environment: EnvironmentId,
  objects: readonly TokenObject[],
): void {
  const recorded = new Set<string>(objects.map(({ objectId }) => objectId));
  for (const role of TOKEN_OBJECT_ROLES) {
    const label = labelOf(role, environment);
    const found = collect(session, role).filter((object) => labelled(object) === label);
    const unknown = found.map(idOf).find((id) => !recorded.has(id));
    if (unknown === undefined) continue;
    throw new AgentFailure(
      'refused',
      `the token has ${found.length} objects labelled ${label}; the database does not know ${unknown}`,
    );
  }
}

function collect(session: Session, role: TokenObjectRole, id?: Buffer): SessionObject[] {
  const found = session.find(searchTemplate(role, id));
  return Array.from({ length: found.length }, (_, index) => found.items(index));
}

/** The ids of all objects in the token that are of the kind of any role. */
function idsIn(session: Session): ReadonlySet<string> {
  return new Set(TOKEN_OBJECT_ROLES.flatMap((role) => collect(session, role)).map(idInWords));
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
    throw new AgentFailure(
      'refused',
      `the id of the object labelled ${labelled(object)} is not a UUID`,
    );
  }
  return idFromBytes(id);
}
