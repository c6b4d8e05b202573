/**
 * What differs between tokens, and what every token object must be: facts that server and agent
 * share.
 *
 * The profile is probed once, by `keyward-server token init`, stored with the environment, and
 * never guessed again. Knows no PKCS#11 library and no number of it beyond those that a profile
 * records.
 */
import type { AnyId } from '../ids.ts';
import type { AgentRuleReport } from './agent-rule.ts';

/** The roles of the objects that an environment has in its token. */
export const TOKEN_OBJECT_ROLES = ['root', 'seal', 'mask', 'audit-signing'] as const;
export type TokenObjectRole = (typeof TOKEN_OBJECT_ROLES)[number];

/** One object of the token: its CKA_ID is the UUID. */
export interface TokenObject {
  readonly objectId: AnyId;
  readonly role: TokenObjectRole;
  /**
   * Absent: the token must have it. `expected`: it should be there, and is used where it is seen.
   * `possible`: it may be there, and is not used. `gone`: it was destroyed, and is not used should
   * it be there all the same.
   */
  readonly presence?: 'expected' | 'possible' | 'gone';
}

/** Which of an environment's objects an agent can use. */
export interface HeldObjects {
  /** Found and verified. */
  readonly held: readonly AnyId[];
  /**
   * Expected ones that are there and can't be used, and gone ones that are there; in words for
   * operators.
   */
  readonly problems: readonly string[];
}

/** How this token wants to be spoken to. */
export interface TokenProfile {
  /** CKK_ number of key version material once unwrapped: CKK_GENERIC_SECRET or CKK_SHA512_HMAC. */
  readonly keyType: number;
  /** CKM_ number that root keys wrap with. */
  readonly wrapMechanism: number;
  /** What that mechanism computes: {@link import('./key-version.ts').WRAP}. */
  readonly wrap: number;
  /** Whether CKA_MODIFIABLE stands last or first in unwrap templates; SoftHSM insists on last. */
  readonly modifiable: 'last' | 'first';
  /** Whether unwrap templates say CKA_VALUE_LEN; some tokens insist, SoftHSM refuses it. */
  readonly valueLength: boolean;
  /** Whether CKA_ALLOWED_MECHANISMS narrows unwrapped material to HMAC-SHA-512. */
  readonly allowedMechanisms: boolean;
  /** Required attributes that the token knows no way to set, each of which needs a waiver. */
  readonly unsupported: readonly string[];
}

/** Whether a token holds to a required attribute. */
export type PostureState = 'enforced' | 'unsupported' | 'violated';

/** One required attribute of one object. */
export interface PostureFinding {
  readonly objectId: AnyId;
  readonly role: TokenObjectRole;
  readonly attribute: string;
  readonly state: PostureState;
}

/** How an object of an environment was found in the token, by its CKA_ID and its label. */
export type ObjectCondition = 'found' | 'missing' | 'duplicated' | 'mislabelled';

/**
 * One required attribute, with what is accepted of it: `waived` is unsupported, and the operator
 * goes without.
 */
export interface AttributePosture {
  /** As PKCS#11 names it, without CKA_ and in camel case. */
  readonly attribute: string;
  /** What it must be, in words. */
  readonly required: string;
  readonly state: PostureState | 'waived';
}

/** One object of the environment as the token has it. */
export interface ObjectPosture extends TokenObject {
  readonly condition: ObjectCondition;
  /** None where the condition is `missing` or `duplicated`. */
  readonly attributes: readonly AttributePosture[];
}

/** How a token is spoken to, in words. */
export interface ProfileWords {
  readonly keyType: string;
  readonly wrapMechanism: string;
  readonly attributeOrder: string;
  /** Whether unwrap templates say CKA_VALUE_LEN. */
  readonly valueLength: boolean;
  /** Whether unwrapped material is narrowed to HMAC-SHA-512 by CKA_ALLOWED_MECHANISMS. */
  readonly allowedMechanisms: boolean;
  readonly unsupportedAttributes: readonly string[];
}

/** What a token and its library say of themselves, and what an environment's objects in it are. */
export interface TokenPosture {
  readonly module: {
    readonly description: string;
    readonly version: string;
    readonly manufacturer: string;
  };
  readonly label: string;
  readonly serialNumber: string;
  readonly manufacturer: string;
  readonly model: string;
  readonly firmwareVersion: string;
  readonly hardwareVersion: string;
  readonly profile: ProfileWords;
  readonly objects: readonly ObjectPosture[];
  /**
   * Keys with labels like ours that nobody has asked for: another environment's, or ones that no
   * database records.
   */
  readonly unrecorded: readonly { readonly objectId: string; readonly label: string }[];
}

/**
 * What an agent says once it serves: which token it has, what it holds, and every finding that
 * isn't `enforced`.
 */
export interface TokenReport extends HeldObjects {
  readonly module: string;
  readonly token: string;
  readonly serialNumber: string;
  readonly findings: readonly PostureFinding[];
  /** The rule that the agent holds; absent for none. */
  readonly rule?: AgentRuleReport;
}

/** What tells a token from others. */
export interface TokenIdentity {
  readonly label: string;
  readonly serialNumber: string;
}

/** What moving key versions to a token or from it would meet. */
export interface TokenSurvey extends TokenIdentity {
  readonly module: string;
  /** Names of mechanisms that an environment's token must have and this one hasn't. */
  readonly lacks: readonly string[];
  /** {@link import('./key-version.ts').WRAP}, as far as it has any, what it would wrap by first. */
  readonly wraps: readonly number[];
  /** Whether it has RSA-OAEP, and makes RSA key pairs. */
  readonly oaep: boolean;
  readonly objects: readonly (TokenObject & { readonly condition: ObjectCondition })[];
  /** Keys with labels like ours that it was not asked for. */
  readonly unrecorded: TokenPosture['unrecorded'];
}

/**
 * Hashes that RSA-OAEP goes with, the better first; SoftHSM has SHA-1 alone, which is sound in
 * OAEP.
 */
export const OAEP_HASHES = ['SHA-256', 'SHA-1'] as const;
export type OaepHash = (typeof OAEP_HASHES)[number];

/**
 * What the token that is moved to can take: the public half of a transport key pair, and what goes
 * with it.
 */
export interface TransportOffer {
  /** RSA-3072, in hexadecimal digits; the exponent is 65537. */
  readonly modulus: string;
  /** What its private half has unwrapped in a trial. */
  readonly hashes: readonly OaepHash[];
  /** What AES keys of that token unwrap: {@link import('./key-version.ts').WRAP}. */
  readonly wrap: number;
}

/**
 * How key versions travel. `aes-key-wrap`: by an AES-256 key, itself wrapped by RSA-OAEP; where
 * both tokens compute the same AES key wrap. `rsa-oaep`: each by RSA-OAEP, which takes the target
 * 16 times as long (SoftHSM, measured: 83 µs and 1.37 ms).
 */
export type TransportKind = 'aes-key-wrap' | 'rsa-oaep';

/** What the token that is moved from has chosen. */
export interface TransportChoice {
  readonly kind: TransportKind;
  readonly hash: OaepHash;
  /** The AES key, wrapped by the offer's; in hexadecimal digits, empty where there is none. */
  readonly wrapped: string;
}

/**
 * How they travel where the one token computes the one, the other the other:
 * {@link import('./key-version.ts').WRAP}.
 */
export function transportBetween(source: number, target: number): TransportKind {
  return source === target ? 'aes-key-wrap' : 'rsa-oaep';
}
