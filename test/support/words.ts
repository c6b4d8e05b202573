/**
 * Words that have a better one in Keyward's documents, its contract and what its programs print.
 *
 * Only words that are wrong nearly everywhere are here: what takes judgement is in CONTRIBUTING.md.
 */

/** A word, and what to write instead. */
export interface Replacement {
  readonly word: RegExp;
  readonly instead: string;
}

export const REPLACEMENTS: readonly Replacement[] = [
  { word: /\banew\b/i, instead: 'again' },
  { word: /\bcan not\b/i, instead: 'cannot' },
  { word: /\bso long\b/i, instead: 'as long as, or the time itself' },
  { word: /\bas of\b/i, instead: 'from … on, or since' },
  { word: /\bby (itself|themselves)\b/i, instead: 'automatically, or alone' },
  { word: /\b(he|him|his|himself|she|her|hers|herself)\b/i, instead: 'they, or the role' },
  { word: /\b(whoever|whomever)\b/i, instead: 'the actor: the caller, an operator, an attacker' },
  { word: /\b(nobody|somebody)\b/i, instead: 'the actor: no caller, an operator' },
  { word: /\bsays? so\b/i, instead: 'reports it' },
  { word: /\bcomes of it\b/i, instead: 'it was not performed' },
  { word: /\bwhat is due\b/i, instead: 'due rotations, due destructions' },
  { word: /\bhow (it|they|keys|a key) stands?\b/i, instead: 'state' },
];
