'use client';

import dynamic from 'next/dynamic';
import { useState } from 'react';

import { greet } from './actions.js';

const Lazy = dynamic(() => import('./lazy.js'), { ssr: false });

/** Parts of a page that ask for more of their build long after the page was loaded. */
export function Client() {
  const [isOpen, open] = useState(false);
  const [greeting, set] = useState('none');
  return (
    <section>
      <button id="open" onClick={() => open(true)}>
        Open
      </button>
      <button id="greet" onClick={async () => set(await greet('Ada'))}>
        Greet
      </button>
      <p id="greeting">{greeting}</p>
      {isOpen && <Lazy />}
    </section>
  );
}
