'use client';

import { useState } from 'react';

/** Counts clicks, if the scripts of the page run. */
export default function Counter() {
  const [clicks, setClicks] = useState(0);
  return <button onClick={() => setClicks(clicks + 1)}>{`clicks:${clicks}`}</button>;
}
