"""The labelling window: passes keys and clicks on to the session, and draws it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pygame
from pygame.event import Event

from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.desk import Side
from rlhf_gym.feedback.viewer.clip_panes import timeline_share
from rlhf_gym.feedback.viewer.display import open_window
from rlhf_gym.feedback.viewer.drawing import printable
from rlhf_gym.feedback.viewer.keymap import Keymap
from rlhf_gym.feedback.viewer.overlays import quit_buttons
from rlhf_gym.feedback.viewer.screen import Screen, View
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.feedback.viewer.shown_pair import InputKind
from rlhf_gym.feedback.viewer.text_panes import TextView

__all__ = ["Viewer", "ViewerResult", "key_name", "run_viewer"]

_SIDES: dict[str, Side] = {"left": "left", "right": "right", "tie": "tie", "skip": "skip"}
_FLASH_MS = 250
_MESSAGE_MS = 5000
_FRAMES_PER_SECOND = 60
_LINES_PER_STEP = 3
_NAMES = {
    pygame.K_LEFT: "left",
    pygame.K_RIGHT: "right",
    pygame.K_UP: "up",
    pygame.K_DOWN: "down",
    pygame.K_SPACE: "space",
    pygame.K_BACKSPACE: "backspace",
    pygame.K_ESCAPE: "escape",
    pygame.K_RETURN: "return",
    pygame.K_KP_ENTER: "return",
    pygame.K_TAB: "tab",
    pygame.K_HOME: "home",
    pygame.K_END: "end",
    pygame.K_PAGEUP: "pageup",
    pygame.K_PAGEDOWN: "pagedown",
    pygame.K_INSERT: "insert",
    pygame.K_DELETE: "delete",
    **{getattr(pygame, f"K_F{n}"): f"f{n}" for n in range(1, 13)},
}


@dataclass(frozen=True)
class ViewerResult:
    """What a sitting came to."""

    n_answers: int
    """Answers of this sitting that stand."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Why pairs could not be shown, by query id."""


def key_name(event: Event) -> str | None:
    """The key of a KEYDOWN event as `keymap` spells it; None with Ctrl, Alt or a system key."""
    held = event.dict.get("mod", 0)
    if held & (pygame.KMOD_META | pygame.KMOD_LALT):
        return None
    if held & pygame.KMOD_CTRL and not held & pygame.KMOD_RALT:  # AltGr comes as both
        return None
    if event.key in _NAMES:
        return _NAMES[event.key]
    typed = event.dict.get("unicode", "").lower()
    if len(typed) == 1 and typed.isprintable():
        return str(typed)  # what the layout types: "?" is another key on every keyboard
    return chr(event.key) if 32 < event.key < 127 else None


class Viewer:
    """One open window on a session.

    Args:
        session: What is drawn; closed by `close`.
        size: Width and height of the window, in pixels.
        keymap: Keys of every action.
        caption: The window's title.
        font: A TrueType file for all text; None for pygame's own (Latin, Greek, Cyrillic).

    Raises:
        MissingDependencyError: no display, or another package in the place of pygame-ce.
        ConfigError: the font cannot be read.
    """

    def __init__(
        self,
        session: LabelSession,
        *,
        size: tuple[int, int] = (1280, 720),
        keymap: Keymap | None = None,
        caption: str = "rlhf-gym label",
        font: Path | None = None,
    ) -> None:
        self.session = session
        self.keymap = keymap or Keymap()
        open_window(size, caption)
        self.screen = Screen(self.keymap, font)
        self._check_font(size, font)
        self.view = View()
        self.is_open = True
        self._is_dragging = False
        self._flash_until = self._message_until = 0
        self._seen_message = ""
        self._shows_diff = False
        if session.rubric:
            self._open("rubric")

    def _check_font(self, size: tuple[int, int], font: Path | None) -> None:
        try:
            self.screen.theme(size).normal.width("a")  # some broken files fail on use alone
        except (OSError, pygame.error) as error:
            raise ConfigError(
                f"the font {font} cannot be read ({error}); name a TrueType or OpenType file."
            ) from error

    # --- one turn ---------------------------------------------------------------------------

    def turn(self) -> None:
        """Take all events from pygame's queue, let time pass, and draw what changed."""
        for event in pygame.event.get():
            self.handle(event)
        self.session.tick()
        self._update_view()
        surface = pygame.display.get_surface()
        if surface is not None and (changed := self.screen.draw(surface, self.session, self.view)):
            pygame.display.update(changed)

    def _update_view(self) -> None:
        now, view, pair = pygame.time.get_ticks(), self.view, self.session.pair
        if now >= self._flash_until:
            view.flash = None
        if self.session.message != self._seen_message:
            self._seen_message = self.session.message
            self._message_until = now + _MESSAGE_MS
        view.message = self._seen_message if now < self._message_until else ""
        if pair is None or pair.text is None:
            view.text = None
        elif view.text is None or view.text.pair is not pair.text:
            view.text = TextView(pair.text, show_diff=self._shows_diff)
        if self.session.task:
            view.task = self.session.task
        elif pair is not None:
            context = pair.question.query.context_id
            view.task = "Texts" if pair.text else context.rpartition("/")[2]

    def run(self) -> ViewerResult:
        """Turn until the window is closed."""
        clock = pygame.time.Clock()
        while self.is_open:
            self.turn()
            clock.tick(_FRAMES_PER_SECOND)
        return ViewerResult(self.session.n_answers, dict(self.session.damaged))

    def close(self) -> None:
        """Close the window, and give back what was not answered."""
        self.is_open = False
        self.session.close()
        pygame.quit()

    # --- events -----------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """React to one event."""
        if event.type == pygame.QUIT:
            self.is_open = False
        elif event.type == pygame.KEYDOWN:
            self._key(event)
        elif event.type == pygame.TEXTINPUT and self.view.overlay == "comment":
            self.view.comment += printable(event.text)
        elif event.type == pygame.MOUSEBUTTONDOWN and event.button == 1:
            self._click(event.pos)
        elif event.type == pygame.MOUSEBUTTONUP and event.button == 1:
            self._is_dragging = False
        elif event.type == pygame.MOUSEMOTION:
            self.view.hovered = self._button_at(event.pos)
            if self._is_dragging:
                self._scrub(event.pos[0])
        elif event.type == pygame.MOUSEWHEEL:
            self._scroll(-event.y * _LINES_PER_STEP, self._is_over_prompt())
        elif event.type in (pygame.WINDOWEXPOSED, pygame.WINDOWRESTORED):
            self.screen.forget()

    def _key(self, event: Event) -> None:
        key, overlay = key_name(event), self.view.overlay
        if overlay == "comment":
            self._write(event.key)
            return
        action = self.keymap.action(key) if key else None
        if overlay == "quit":
            self._decide_to_quit(key in ("return", "y"))
        elif overlay:
            if key in ("space", "return") or action in ("quit", overlay):
                self._close_overlay()
            elif action in ("back", "forward") or key in ("up", "down", "pageup", "pagedown"):
                is_up = action == "back" or key in ("up", "pageup")
                self._scroll(-_LINES_PER_STEP if is_up else _LINES_PER_STEP, False)
        elif action:
            self.act(action, "key")
        elif key == "return":
            self.session.retry()
            self.session.proceed()
        elif key in ("pageup", "pagedown"):
            is_prompt = bool(event.dict.get("mod", 0) & pygame.KMOD_SHIFT)
            self._scroll(-12 if key == "pageup" else 12, is_prompt)

    def _click(self, place: tuple[int, int]) -> None:
        layout, name = self.screen.layout, self._button_at(place)
        if self.view.overlay in ("help", "rubric"):
            self._close_overlay()
        elif self.view.overlay == "quit":
            surface = pygame.display.get_surface()
            assert surface is not None
            buttons = quit_buttons(surface, self.screen.theme(surface.get_size()))
            self._decide_to_quit(buttons["quit"].collidepoint(place))
        elif name:
            if self.view.overlay == "comment":
                self._keep_comment()
            self.act(name, "mouse")
        elif layout and layout.timeline.collidepoint(place) and self.view.text is None:
            self._is_dragging = True
            self._scrub(place[0])
        elif self.session.state == "feedback":
            self.session.proceed()

    def _button_at(self, place: tuple[int, int]) -> str | None:
        buttons = self.screen.layout.buttons if self.screen.layout else {}
        return next((name for name, area in buttons.items() if area.collidepoint(place)), None)

    def _is_over_prompt(self) -> bool:
        layout = self.screen.layout
        return bool(layout and layout.prompt.collidepoint(pygame.mouse.get_pos()))

    # --- actions ----------------------------------------------------------------------------

    def act(self, action: str, input_kind: InputKind) -> None:
        """Do what a key or a button stands for.

        Args:
            action: One of `keymap.ACTIONS`.
            input_kind: What the labeller used; goes on record with an answer.
        """
        session = self.session
        if action in _SIDES:
            if session.answer(_SIDES[action], input_kind):
                self.view.flash = action
                self._flash_until = pygame.time.get_ticks() + _FLASH_MS
        elif action == "pause" and session.state == "feedback":
            session.proceed()
        elif action == "diff":
            self._toggle_diff()
        elif action in ("help", "rubric", "comment"):
            self._open(action)
        elif action == "quit":
            if session.state in ("done", "disqualified"):
                self.is_open = False
            else:
                self.view.overlay = "quit"
                session.cover(True)
        elif self.view.text is not None and action in ("back", "forward", "restart"):
            step = {"back": -_LINES_PER_STEP, "forward": _LINES_PER_STEP, "restart": -(10**6)}
            self._scroll(step[action], False)
        else:
            {
                "postpone": session.postpone,
                "undo": session.undo,
                "pause": session.toggle_pause,
                "back": lambda: session.step(-1),
                "forward": lambda: session.step(1),
                "slower": lambda: session.change_speed(-1),
                "faster": lambda: session.change_speed(1),
                "restart": session.restart,
            }[action]()

    def _toggle_diff(self) -> None:
        if self.view.text is not None:
            self.view.text.toggle_diff()
            self._shows_diff = self.view.text.show_diff

    def _open(self, overlay: str) -> None:
        if overlay == "rubric" and not self.session.rubric:
            self.session.message = "There is no rubric for this task."
        elif overlay == "comment":
            if self.session.state != "showing" or self.session.pair is None:
                self.session.message = "There is no pair to comment on."
                return
            self.view.overlay, self.view.comment = "comment", self.session.pair.comment
            pygame.key.start_text_input()
        elif overlay in ("rubric", "help"):
            self.view.overlay = "rubric" if overlay == "rubric" else "help"
            self.view.rubric_scroll = 0
            self.session.cover(True)

    def _decide_to_quit(self, is_meant: bool) -> None:
        """A key pressed by mistake must not end a sitting: anything but a yes goes on."""
        self.is_open = not is_meant
        self._close_overlay()

    def _close_overlay(self) -> None:
        self.view.overlay = ""
        pygame.key.stop_text_input()
        self.session.cover(False)

    def _write(self, key: int) -> None:
        if key == pygame.K_BACKSPACE:
            self.view.comment = self.view.comment[:-1]
        elif key in (pygame.K_RETURN, pygame.K_KP_ENTER):
            self._keep_comment()
        elif key == pygame.K_ESCAPE:
            self._close_overlay()

    def _keep_comment(self) -> None:
        self.session.comment(self.view.comment)
        self._close_overlay()

    def _scrub(self, x: int) -> None:
        surface, layout = pygame.display.get_surface(), self.screen.layout
        if surface is not None and layout is not None:
            theme = self.screen.theme(surface.get_size())
            self.session.scrub(timeline_share(layout.timeline, x, theme))

    def _scroll(self, n_lines: int, is_prompt: bool) -> None:
        surface = pygame.display.get_surface()
        if self.view.overlay == "rubric":
            self.view.rubric_scroll += n_lines
        elif self.view.text is not None and surface is not None:
            step = self.view.text.step(self.screen.theme(surface.get_size()))
            self.view.text.scroll_by(n_lines * step, is_prompt=is_prompt)


def run_viewer(
    session: LabelSession,
    *,
    size: tuple[int, int] = (1280, 720),
    keymap: Keymap | None = None,
    caption: str = "rlhf-gym label",
    font: Path | None = None,
) -> ViewerResult:
    """Label in a window until it is closed; arguments and errors as for `Viewer`.

    However it ends, the session is closed: what was not answered is given back to others.

    Returns:
        What the sitting came to.
    """
    try:
        viewer = Viewer(session, size=size, keymap=keymap, caption=caption, font=font)
        return viewer.run()
    finally:
        session.close()
        pygame.quit()
