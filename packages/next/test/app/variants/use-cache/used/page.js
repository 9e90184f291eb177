import { cacheLife, cacheTag } from 'next/cache';
import { connection } from 'next/server';
import { Suspense } from 'react';

async function value() {
  'use cache';
  cacheTag('used');
  cacheLife('hours');
  const response = await fetch(process.env.DATA_URL + '/used').catch(() => undefined);
  return response ? await response.text() : 'none';
}

async function Value() {
  // For each request, so that the page itself is not stored.
  await connection();
  return <p>{`value:${await value()}:end`}</p>;
}

export default function Used() {
  return (
    <Suspense fallback={null}>
      <Value />
    </Suspense>
  );
}
