"""What the window shows: drawn from the session, and only where something changed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pygame import Rect, Surface

from rlhf_gym.feedback.viewer import colors, overlays
from rlhf_gym.feedback.viewer.clip_panes import draw_picture, draw_timeline
from rlhf_gym.feedback.viewer.drawing import button, text
from rlhf_gym.feedback.viewer.keymap import ACTIONS, Keymap
from rlhf_gym.feedback.viewer.layout import ANSWERS, CONTROL_TOOLS, TEXT_TOOLS, Layout
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.feedback.viewer.status_bar import draw_status, status_words
from rlhf_gym.feedback.viewer.text_panes import TextView
from rlhf_gym.feedback.viewer.theme import Theme

__all__ = ["Screen", "View"]

_TEXT_LABELS = {"back": "Scroll up", "forward": "Scroll on", "restart": "To the top"}
_ALWAYS = ("undo", "rubric", "help", "quit")  # also where no pair is shown


@dataclass
class View:
    """What the window adds to the session: it is about the looking, not about the answers."""

    overlay: Literal["", "help", "rubric", "comment", "quit"] = ""
    comment: str = ""
    """What is written in the comment line, while that is open."""
    hovered: str | None = None
    """The button under the mouse."""
    flash: str | None = None
    """The answer just given."""
    message: str = ""
    rubric_scroll: int = 0
    """Lines."""
    text: TextView | None = None
    """Of the present pair, where it is one of texts."""
    task: str = ""


class Screen:
    """Draws a session into a surface of any size.

    Args:
        keymap: The keys that are printed on the buttons.
        font: A TrueType file; None for the one that comes with pygame.
    """

    def __init__(self, keymap: Keymap, font: Path | None = None) -> None:
        self._keymap, self._font = keymap, font
        self._theme: Theme | None = None
        self._size = (0, 0)
        self._is_text = False
        self._drawn: Hashable = None
        self._frames: tuple[Hashable, ...] = ()
        self.layout: Layout | None = None
        """Of the last drawing."""

    def theme(self, size: tuple[int, int]) -> Theme:
        """Fonts and lengths for a window size."""
        if self._theme is None or size != self._size:
            self._size, self._theme = size, Theme(size, self._font)
        return self._theme

    def forget(self) -> None:
        """Draw everything the next time: the window was hidden."""
        self._drawn = None

    def draw(self, surface: Surface, session: LabelSession, view: View) -> list[Rect]:
        """Draw what changed since the last call.

        Returns:
            Where: to be updated on the display. Empty: nothing changed.
        """
        theme = self.theme(surface.get_size())
        state = self._state(surface, session, view)
        frames = self._moving(session)
        if state != self._drawn or (self._covers(session, view) and frames != self._frames):
            self._draw_all(surface, session, view, theme)
            changed = [surface.get_rect()]
            frames = self._moving(session)  # in pixels of what is laid out now
            state = self._state(surface, session, view)  # with scrolls within their ends
        else:
            changed = self._draw_moving(surface, session, frames, theme)
        self._drawn, self._frames = state, frames
        return changed

    def _state(self, surface: Surface, session: LabelSession, view: View) -> Hashable:
        """All that a full drawing depends on, but for the frames that are playing."""
        playback = session.pair.playback if session.pair else None
        looks = (playback.is_paused, playback.speed) if playback else None
        pair, shown = session.pair, view.text
        reading = (shown.scroll, shown.prompt_scroll, shown.show_diff) if shown else None
        notice = overlays.notice_lines(session) if pair is None else ("", [])
        return (
            *(surface.get_size(), session.state, id(pair), looks, reading, session.error),
            *(view.overlay, view.comment, view.hovered, view.flash, view.message),
            *(view.rubric_scroll, view.task, pair.comment if pair else "", session.total),
            *(status_words(session), session.progress, notice[0], tuple(notice[1])),
        )

    def _covers(self, session: LabelSession, view: View) -> bool:
        """Whether something lies over the clips."""
        return bool(view.overlay or session.error or session.feedback)

    def _moving(self, session: LabelSession) -> tuple[Hashable, ...]:
        """The frame of each clip and whether it ended, and the position in pixels."""
        pair, time = session.pair, session.play_time
        if pair is None or pair.playback is None or self.layout is None:
            return ()
        playback = pair.playback
        place = round(playback.position(time) / playback.seconds * self.layout.timeline.width)
        sides = [(playback.frame(side, time), playback.has_ended(side, time)) for side in (0, 1)]
        return (*sides, place)

    # --- drawing ----------------------------------------------------------------------------

    def _draw_moving(
        self,
        surface: Surface,
        session: LabelSession,
        frames: tuple[Hashable, ...],
        theme: Theme,
    ) -> list[Rect]:
        if frames == self._frames or self.layout is None or not frames:
            return []
        changed = []
        for side in (0, 1):
            if frames[side] != self._frames[side]:
                changed.append(self._draw_pane(surface, session, side, theme))
        self._draw_position(surface, session, theme)
        return [*changed, self.layout.timeline]

    def _draw_all(self, surface: Surface, session: LabelSession, view: View, theme: Theme) -> None:
        layout = self.layout = self._arrange(surface.get_size(), session, view, theme)
        surface.fill(colors.BACKGROUND)
        draw_status(surface, layout.top, session, view.task, theme)
        if session.pair is None:
            area = layout.panes[0].union(layout.panes[1])
            overlays.draw_notice(surface, area, session, theme)
        elif view.text is not None:
            view.text.draw(surface, layout.prompt, layout.panes, theme)
        else:
            for side in (0, 1):
                surface.fill(colors.PANEL, layout.panes[side])
                self._draw_pane(surface, session, side, theme)
            self._draw_position(surface, session, theme)
        self._draw_message(surface, session, view, theme)
        self._draw_buttons(surface, session, view, theme)
        if session.feedback:
            box = layout.message.unionall([layout.buttons[name] for name in ANSWERS])
            overlays.draw_feedback(surface, layout.panes, box, session.feedback, theme)
        self._draw_overlay(surface, session, view, theme)

    def _arrange(
        self, size: tuple[int, int], session: LabelSession, view: View, theme: Theme
    ) -> Layout:
        if session.pair is not None:
            self._is_text = view.text is not None
        if not self._is_text:
            return Layout.make(size, theme, CONTROL_TOOLS)
        plain = Layout.make(size, theme, TEXT_TOOLS)
        height = 0
        if view.text is not None:
            room = plain.panes[0].height
            height = view.text.prompt_height(plain.prompt.width, room, theme)
        return Layout.make(size, theme, TEXT_TOOLS, height)

    def _draw_pane(self, surface: Surface, session: LabelSession, side: int, theme: Theme) -> Rect:
        pair = session.pair
        assert pair is not None and pair.pictures and pair.playback and self.layout
        picture = pair.pictures[side].frames[pair.playback.frame(side, session.play_time)]
        has_ended = pair.playback.has_ended(side, session.play_time)
        return draw_picture(surface, self.layout.panes[side], picture, theme, has_ended=has_ended)

    def _draw_position(self, surface: Surface, session: LabelSession, theme: Theme) -> None:
        assert session.pair is not None and session.pair.playback and self.layout
        playback = session.pair.playback
        draw_timeline(surface, self.layout.timeline, playback, session.play_time, theme)

    def _draw_message(
        self, surface: Surface, session: LabelSession, view: View, theme: Theme
    ) -> None:
        assert self.layout
        words, color = view.message, colors.TEXT
        if not words and session.pair and session.pair.comment:
            words, color = f"Comment: {session.pair.comment}", colors.MUTED
        if not words and view.text is not None and (missing := view.text.missing(theme.reading)):
            words = (
                f"{len(missing)} of the characters in this pair are not in the window's font: "
                "they appear as boxes. A terminal may have them: --terminal."
            )
        text(surface, theme.small, words, self.layout.message, color)

    def _draw_buttons(
        self, surface: Surface, session: LabelSession, view: View, theme: Theme
    ) -> None:
        assert self.layout
        playback = session.pair.playback if session.pair else None
        active = {
            "pause": playback is not None and playback.is_paused,
            "diff": view.text is not None and view.text.show_diff,
            "comment": bool(session.pair and session.pair.comment),
        }
        for name, area in self.layout.buttons.items():
            label = ACTIONS[name].label
            if self._is_text:
                label = _TEXT_LABELS.get(name, label)
            button(
                surface,
                area,
                "Play" if name == "pause" and active["pause"] else label,
                self._keymap.keys[name][0],
                theme,
                accent=colors.ACCENTS[name] if name in ANSWERS else None,
                is_hovered=view.hovered == name,
                is_flashing=view.flash == name,
                is_active=active.get(name, False),
                is_enabled=session.pair is not None or name in _ALWAYS,
            )

    def _draw_overlay(
        self, surface: Surface, session: LabelSession, view: View, theme: Theme
    ) -> None:
        assert self.layout
        if session.error:
            hint = f"{self._keymap.label('help')} shows the keys."
            if session.can_retry:
                hint = "The pair is still here. Enter: save the same answer again; or answer anew."
            overlays.draw_error(surface, self.layout.top.bottom, session.error, hint, theme)
        if view.overlay == "help":
            overlays.draw_help(surface, self._keymap, theme)
        elif view.overlay == "rubric" and session.rubric:
            view.rubric_scroll = overlays.draw_rubric(
                surface, session.rubric, view.rubric_scroll, theme
            )
        elif view.overlay == "quit":
            overlays.draw_quit(surface, session, theme)
        elif view.overlay == "comment":
            overlays.draw_comment(surface, self.layout.message, view.comment, theme)
