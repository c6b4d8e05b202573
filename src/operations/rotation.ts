/**
 * RotationService, a row for each method.
 */
import { z } from 'zod';
import { ofName, ofParent, ofSystem, type RowsOf, row, streamRow } from '../calls/operation.ts';
import * as field from '../faces/contract/fields.ts';
import type { RotationServiceHandlers } from '../faces/contract/generated/keyward/v1/RotationService.ts';
import { jobMessage, rotationMessage } from '../faces/contract/messages.ts';
import { formatJobName, formatKeyName, formatScope, formatTenantName } from '../names.ts';

export const rotationService = {
  ListRotations: row({
    permission: 'rotations.list',
    target: ofParent,
    request: z.object({ parent: field.keyName, ...field.pageOnly }),
    resource: ({ parent }) => formatKeyName(parent),
    handle: async ({ rotation }, call, { parent, ...page }) => {
      const { items, nextPageToken } = await rotation.list(call, parent, {
        ...page,
        conditions: [],
      });
      return { rotations: items.map((item) => rotationMessage(parent, item)), nextPageToken };
    },
  }),
  CreateRewrapJob: row({
    permission: 'rewrapJobs.create',
    target: ({ scope }) => (scope.tenant === undefined ? ofSystem() : ofName({ name: scope })),
    request: z.object({ scope: field.scope, kind: field.jobKind, requestId: field.requestId }),
    resource: ({ scope }) => formatScope(scope),
    handle: async ({ rewrap }, call, { scope, kind }) => {
      const { tenant, job } = await rewrap.create(call, scope, kind);
      return jobMessage(tenant, job);
    },
  }),
  GetRewrapJob: row({
    permission: 'rewrapJobs.get',
    target: ofName,
    request: z.object({ name: field.jobName }),
    resource: ({ name }) => formatJobName(name, name.job),
    handle: async ({ rewrap }, call, { name }) => {
      const { job, failures } = await rewrap.get(call, name);
      return jobMessage(name, job, failures);
    },
  }),
  ListRewrapJobs: row({
    permission: 'rewrapJobs.list',
    target: ofParent,
    request: z.object({ parent: field.tenantName, ...field.page(['state']) }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async ({ rewrap }, call, { parent, filter: conditions, ...page }) => {
      const { items, nextPageToken } = await rewrap.list(call, parent, { ...page, conditions });
      return { rewrapJobs: items.map((job) => jobMessage(parent, job)), nextPageToken };
    },
  }),
  CancelRewrapJob: row({
    permission: 'rewrapJobs.cancel',
    target: ofName,
    request: z.object({ name: field.jobName, requestId: field.requestId }),
    resource: ({ name }) => formatJobName(name, name.job),
    handle: async ({ rewrap }, call, { name }) => jobMessage(name, await rewrap.cancel(call, name)),
  }),
  WatchRewrapJob: streamRow({
    permission: 'rewrapJobs.get',
    target: ofName,
    request: z.object({ name: field.jobName }),
    resource: ({ name }) => formatJobName(name, name.job),
    stream: async function* ({ rewrap }, call, { name }) {
      for await (const { job, failures, rate } of rewrap.watch(call, name))
        yield jobMessage(name, job, failures, rate);
    },
  }),
} satisfies RowsOf<RotationServiceHandlers>;
