/** A layout with a slot, in which shots are shown that its visitors open. */
export default function Layout({ children, shown }) {
  return (
    <>
      <p>layout:feed</p>
      {children}
      {shown}
    </>
  );
}
