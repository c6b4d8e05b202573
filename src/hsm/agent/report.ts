/**
 * What an agent says of its token to whoever asks: the library, the token, the profile in words,
 * every object with every required attribute.
 *
 * Its invariant: it looks anew and refuses nothing; what serving would refuse is in the answer as
 * it is. Changes nothing in the token. Doesn't know what an object is used for.
 */
import { KeyType } from 'graphene-pk11';
import type { EnvironmentId } from '../../ids.ts';
import type {
  AttributePosture,
  TokenObject,
  TokenPosture,
  TokenProfile,
} from '../token-profile.ts';
import { TOKEN } from './given.ts';
import { profileInWords } from './probe.ts';
import { requiredAttributes } from './templates.ts';
import type { OpenToken } from './token.ts';
import { inspect, type SurveyedObject, survey } from './token-objects.ts';

interface Settings {
  readonly environmentId: EnvironmentId;
  readonly profile: TokenProfile;
}

/**
 * Returns the library, the token, its profile and every object with its required attributes.
 * Throws what PKCS#11 reports, and nothing else.
 */
export function report(
  { session, description }: OpenToken,
  settings: Settings,
  objects: readonly TokenObject[],
): TokenPosture {
  const found = survey(session, settings.environmentId, objects);
  return {
    ...description,
    profile: profileInWords(settings.profile),
    objects: found.objects.map((object) => ({
      objectId: object.objectId,
      role: object.role,
      condition: object.condition,
      attributes: attributesOf(object, settings),
    })),
    unrecorded: found.unrecorded,
  };
}

function attributesOf(
  { handle, ...object }: SurveyedObject,
  { profile }: Settings,
): AttributePosture[] {
  if (handle === undefined) return [];
  const required = new Map(requiredAttributes(object.role));
  return inspect([{ ...object, handle }], profile).map(({ attribute, state }) => ({
    attribute,
    required: inWords(attribute, required.get(attribute)),
    state: state === 'unsupported' && TOKEN.waivers.includes(attribute) ? 'waived' : state,
  }));
}

function inWords(attribute: string, required: boolean | number | undefined): string {
  return attribute === 'keyType' ? `CKK_${KeyType[Number(required)]}` : String(required);
}
