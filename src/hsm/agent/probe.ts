/**
 * Finds out how a token wants to be spoken to: by trying what serving will do.
 *
 * Run once, by an operator's command, and recorded as the token's profile; at each start only the
 * mechanisms are looked at again. Every try has a session of its own, since a failed call can leave
 * its session in the middle of an operation. Leaves no token object behind.
 */
import {
  KeyGenMechanism,
  KeyType,
  MechanismEnum,
  type Session,
  SessionFlag,
  type SessionObject,
  type Slot,
} from 'graphene-pk11';
import { WRAP } from '../key-version.ts';
import type { ProfileWords, TokenProfile, TokenSurvey } from '../token-profile.ts';
import { AgentFailure, returnValueOf } from './failure.ts';
import {
  HMAC_SHA512,
  historyAttributes,
  optionalAttributes,
  SHA512_HMAC_KEY,
  tokenObjectTemplate,
  transferTemplate,
  useTemplate,
} from './templates.ts';

/** Key wrap mechanisms in the order of preference: every token makes the same bytes by RFC 3394. */
const WRAP_MECHANISMS = [
  { mechanism: 0x2109, wrap: WRAP.rfc3394, name: 'CKM_AES_KEY_WRAP' },
  { mechanism: 0x210b, wrap: WRAP.rfc5649, name: 'CKM_AES_KEY_WRAP_KWP' },
  // RFC 5649 with some tokens, PKCS#7 with others.
  { mechanism: 0x210a, wrap: WRAP.rfc5649, name: 'CKM_AES_KEY_WRAP_PAD' },
] as const;

/** 64 bytes wrapped by either RFC; anything else is another padding. */
const WRAPPED_BYTES = 72;

const SERVING = [
  [MechanismEnum.GENERIC_SECRET_KEY_GEN, 'CKM_GENERIC_SECRET_KEY_GEN'],
  [HMAC_SHA512, 'CKM_SHA512_HMAC'],
] as const;

const REQUIRED = [
  ...SERVING,
  [0x1080, 'CKM_AES_KEY_GEN'],
  [0x1040, 'CKM_EC_KEY_PAIR_GEN'],
  [0x1041, 'CKM_ECDSA'],
] as const;

/** The token's profile. Throws `refused`, naming what the token lacks. */
export function probe(slot: Slot): TokenProfile {
  const offered = offeredBy(slot);
  const missing: string[] = REQUIRED.filter(([number]) => !offered.has(number)).map(
    ([, name]) => name,
  );
  const wraps = WRAP_MECHANISMS.filter(({ mechanism }) => offered.has(mechanism));
  if (wraps.length === 0) missing.push('AES key wrap (CKM_AES_KEY_WRAP, _KWP or _PAD)');
  if (missing.length > 0)
    throw new AgentFailure('refused', `the token lacks ${missing.join(', ')}`);

  const unsupported = probeUnsupported(slot);
  const failures: string[] = [];
  for (const candidate of candidates(wraps, unsupported)) {
    const failure = inSession(slot, (session) => tryProfile(session, candidate));
    if (failure === undefined) return candidate;
    failures.push(failure);
  }
  throw new AgentFailure(
    'refused',
    `the token cannot wrap and unwrap a 64-byte HMAC key in any known way: ${[...new Set(failures)].join(', ')}`,
  );
}

/**
 * Throws `refused`, naming what is missing, unless the token still has what serving needs: firmware
 * and policies change.
 */
export function requireMechanisms(slot: Slot, wrapMechanism: number): void {
  const offered = offeredBy(slot);
  const wrap = WRAP_MECHANISMS.find(({ mechanism }) => mechanism === wrapMechanism);
  const serving = [
    ...SERVING,
    [wrapMechanism, wrap?.name ?? `mechanism ${wrapMechanism}`] as const,
  ];
  const missing = serving.filter(([number]) => !offered.has(number)).map(([, name]) => name);
  if (missing.length > 0)
    throw new AgentFailure('refused', `the token lacks ${missing.join(', ')}`);
}

/**
 * What a token offers for moving key versions to it or from it, by the mechanisms that it lists;
 * nothing is tried.
 */
export function offerOf(slot: Slot): Pick<TokenSurvey, 'lacks' | 'wraps' | 'oaep'> {
  const offered = offeredBy(slot);
  return {
    lacks: REQUIRED.filter(([number]) => !offered.has(number)).map(([, name]) => name),
    wraps: WRAP_MECHANISMS.filter(({ mechanism }) => offered.has(mechanism)).map(
      ({ wrap }) => wrap,
    ),
    oaep:
      offered.has(MechanismEnum.RSA_PKCS_OAEP) && offered.has(MechanismEnum.RSA_PKCS_KEY_PAIR_GEN),
  };
}

/** A profile as operators read it. */
export function profileInWords(profile: TokenProfile): ProfileWords {
  const wrap = WRAP_MECHANISMS.find(({ mechanism }) => mechanism === profile.wrapMechanism);
  return {
    keyType:
      profile.keyType === SHA512_HMAC_KEY ? 'CKK_SHA512_HMAC' : `CKK_${KeyType[profile.keyType]}`,
    wrapMechanism: `${wrap?.name ?? `mechanism ${profile.wrapMechanism}`} (RFC ${profile.wrap === WRAP.rfc3394 ? '3394' : '5649'})`,
    attributeOrder: `CKA_MODIFIABLE ${profile.modifiable} when unwrapping`,
    valueLength: profile.valueLength,
    allowedMechanisms: profile.allowedMechanisms,
    unsupportedAttributes: profile.unsupported,
  };
}

function offeredBy(slot: Slot): ReadonlySet<number> {
  const mechanisms = slot.getMechanisms();
  return new Set(
    Array.from({ length: mechanisms.length }, (_, index) => mechanisms.items(index).type as number),
  );
}

function candidates(
  wraps: readonly { readonly mechanism: number; readonly wrap: number }[],
  unsupported: readonly string[],
): TokenProfile[] {
  return wraps.flatMap(({ mechanism, wrap }) =>
    [KeyType.GENERIC_SECRET as number, SHA512_HMAC_KEY].flatMap((keyType) =>
      [true, false].flatMap((allowedMechanisms) =>
        [false, true].flatMap((valueLength) =>
          (['last', 'first'] as const).map((modifiable) => ({
            keyType,
            wrapMechanism: mechanism,
            wrap,
            modifiable,
            valueLength,
            allowedMechanisms,
            unsupported,
          })),
        ),
      ),
    ),
  );
}

/** Undefined when the profile works, else why not. */
function tryProfile(session: Session, profile: TokenProfile): string | undefined {
  const root = generateTemporaryRoot(session, profile.unsupported);
  const material = session.generateKey(MechanismEnum.GENERIC_SECRET_KEY_GEN, transferTemplate());
  const wrapped = session.wrapKey(profile.wrapMechanism, root, material);
  if (wrapped.length !== WRAPPED_BYTES) return `64 bytes wrap to ${wrapped.length}`;
  const [first, second] = [0, 1].map(() => {
    const key = session.unwrapKey(profile.wrapMechanism, root, wrapped, useTemplate(profile));
    return session.createSign(HMAC_SHA512, key).once(Buffer.from('keyward'));
  });
  return first && second && first.length === 64 && first.equals(second)
    ? undefined
    : 'HMACs differ';
}

/**
 * The required attributes that this token can't hold to: those without which making a token object
 * succeeds and with which it doesn't, and those that it reports wrongly of a key that it has just
 * generated itself. Tried with token objects, each destroyed at once: NSS keeps CKA_COPYABLE for
 * session objects and fails to store it.
 */
function probeUnsupported(slot: Slot): string[] {
  const attempts = [
    [],
    ...optionalAttributes.map((attribute) => [attribute]),
    [...optionalAttributes],
  ];
  for (const unsupported of attempts) {
    let misreported: string[] = [];
    const failure = inSession(
      slot,
      (session) => {
        const key = generateTemporaryRoot(session, unsupported, true);
        misreported = historyAttributes.filter((attribute) => !reports(key, attribute));
        key.destroy();
        return undefined;
      },
      SessionFlag.SERIAL_SESSION | SessionFlag.RW_SESSION,
    );
    if (failure === undefined) return [...unsupported, ...misreported];
  }
  throw new AgentFailure(
    'refused',
    'the token cannot generate an AES key that only wraps and unwraps',
  );
}

function reports(key: SessionObject, attribute: string): boolean {
  try {
    return key.get(attribute) === true;
  } catch (error) {
    if (returnValueOf(error) === undefined) throw error;
    return false;
  }
}

function generateTemporaryRoot(session: Session, unsupported: readonly string[], token = false) {
  const profile = { keyType: KeyType.AES, unsupported };
  const template = tokenObjectTemplate('root', Buffer.alloc(16), 'keyward probe', profile, token);
  return session.generateKey(KeyGenMechanism.AES, template);
}

/**
 * What `attempt` returns, or the name of the PKCS#11 error that it ended with. Its session objects
 * go with its session.
 */
export function inSession(
  slot: Slot,
  attempt: (session: Session) => string | undefined,
  flags: SessionFlag = SessionFlag.SERIAL_SESSION,
): string | undefined {
  const session = slot.open(flags);
  try {
    return attempt(session);
  } catch (error) {
    const returnValue = returnValueOf(error);
    if (returnValue === undefined) throw error;
    return returnValue;
  } finally {
    session.close();
  }
}
